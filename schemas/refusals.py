"""Detects a model's refusal.

Only the beginning is checked, as models refuse at once. Customers are unable to do things as well ("I can't log in"),
so an inability counts only if it is an inability to help, or to write, give or discuss something requested.
In English, and more coarsely in the languages of LANGUAGES, whatever the task's language is: models refuse in either.
"""

from __future__ import annotations

import re

SEEN_CHARS = 200

_QUOTES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "`": "'", "“": '"', "”": '"', "*": " ", "_": " "})

_UNABLE = (
    r"\bi(?: (?:simply|really|also|just|still|honestly|respectfully))?"
    r"(?: can ?not| can't| cant| could ?n[o']t| won't| will not| must not| should ?n[o']t| do not| don't"
    r"| would(?: not|n't)| would rather not|'d rather not"
    r"|(?: am|'m)(?: (?:currently|really|just))? (?:not (?:able|allowed|permitted|authori[sz]ed|willing|going|designed"
    r"|programmed|supposed|in a position|comfortable|here)|unable)(?: to| with)?"
    r"| (?:do not|don't) (?:have the ability to|feel (?:comfortable|right)(?: with)?|wish to|want to))"
)
_ASIDE = r"(?:, [^,.]{1,40},)?(?: (?:\w+ly|be able to|be|in good conscience))*"
_OURS = r"(?:(?!\b(?:my|our|me|us|your)\b)[^.!?\n])"
_HELP = (
    r" (?:help|assist)(?:ing)?(?= you\b| (?:with|in) (?!my\b|our\b|the (?:order|return|delivery))"
    r"| (?:to )?(?:creat|writ|produc|generat)|[^\w']*$|[.,;!:])"
)
_COMPLY = (
    r" (?:comply(?:ing)?\b"
    r"|(?:fulfil|accommodat|answer|honou?r|grant|carry out|respond to|complet|process|satisf)\w*"
    r" (?:this|that|your|such an?|these|those|the) (?:\w+ ){0,2}?"
    r"(?:requests?|questions?|prompts?|instructions?)\b(?! form)"
    r"|(?:do|say|write|answer|discuss|create|generate|provide) (?:that|this)(?=[.,;!]|$)"
    r"|(?:condon|promot|endors|engag|participat|facilitat)\w*\b)"
)
_THING = (
    r"(?:content|instructions?|information|advice|guidance|prompts?|assistance|help|material|response|answers?|ideas?"
    r"|suggestions?|examples?|stor(?:y|ies)|scenarios?|texts? that"
    r"|messages? (?:that|which|asking|designed|intended|about)|anything (?:that|which)"
    r"|(?:this|that|any|such) (?:kind|type|sort|request|topic)s?|such (?:an? )?(?:\w+ )?(?:message|text|thing|review)s?"
    r"|harmful|illegal|unethical|unsafe|offensive|inappropriate|misleading|fraudulent|explicit)\b"
)
_WRITE = (
    r" (?:provid|creat|generat|writ|produc|giv|offer|shar|mak|draft|compos|suggest|suppl|discuss|contribut|support"
    r"|teach|recommend|show|come up with|tell)\w*"
    rf" {_OURS}{{0,60}}?\b{_THING}"
)
_DOING = f"(?:{_HELP}|{_COMPLY}|{_WRITE})"
_SORRY = r"(?:\bsorry\b|\bapologi[sz]e\b|\bapologies\b|\bregret\b|\bunfortunately\b|\bafraid\b)"
_NO = r"(?:n't\b|\bnot\b|\bcannot\b|\bunable\b|\bno\b|\bnever\b)"
_MODEL = (
    r"(?:(?:responsible|ethical|helpful|harmless|virtual|digital|automated|text-based|large) )*"
    r"(?:ai|artificial intelligence|language model|virtual assistant|chatbot)"
    r"(?:[ -](?:language|model|assistant|system|chatbot|based|powered|program))*"
)
_MAKER = r"(?:,| (?:developed|created|trained|made) by \w+)*,?"
_SET_TO = (
    r"(?: must| have to| need to| will(?: have to)?|'ll(?: have to)?|'m going to| am going to|'d like to| would like to"
    r"| am obliged to)?(?: \w+ly)*"
)
_TO_HELP = r" to (?:help|assist|write|create|provide|generate|answer|produce|respond|participate|engage|comply)"
_WRONG = r"(?:(?:simply |also )?(?:not|never) (?:appropriate|ethical|right|acceptable|okay|ok)|inappropriate|unethical)"
_RULES = r"(?:guidelines?|polic(?:y|ies)|programming|training|safety rules|terms of (?:use|service))"
_AGAINST = (
    r"\b(?:against|violat\w+|outside|contrary to|breach\w*|conflicts? with|not (?:allowed|permitted) (?:by|under))"
)
_WHOSE = r" (?:my (?:\w+ ){0,3}?|our (?:usage |content |safety |use |store |shop )?|(?:\w+ )?(?:usage|content|safety) )"
_THIS = r"\b(?:that|this|it)(?:'s| is)(?: not|n't)"

_PATTERNS = tuple((name, re.compile(pattern)) for name, pattern in (
    ("as_an_ai", rf"\bas an? {_MODEL}{_MAKER} (?:i|my|it)\b.{{0,90}}?{_NO}"),
    ("as_an_ai", rf"\bi(?:'m| am) (?:just |only |merely )?an? {_MODEL}\b.{{0,60}}?\b(?:i|and|so|not)\b.{{0,40}}?{_NO}"),
    ("sorry", rf"{_SORRY}.{{0,50}}?{_UNABLE}{_ASIDE}(?:{_DOING}|\s*[.!]?$)"),
    ("sorry", rf"{_SORRY}[^.?!]{{0,20}}{_THIS} (?:something|possible for me)\b"),
    ("sorry", rf"{_SORRY}[,.:]? but [^.?!]{{0,20}}\brequest\b"),
    ("cannot", rf"{_UNABLE}{_ASIDE}{_DOING}"),
    ("not_something", rf"{_THIS} (?:something|a (?:topic|request)|one) (?:that |which )?i\b"),
    ("decline", rf"\bi{_SET_TO} decline(?=[.,;!]|$| (?:this|that|your|such an?|the) (?:\w+ )?request|{_TO_HELP})"),
    ("decline", rf"\bi{_SET_TO} refuse{_TO_HELP}"),
    ("not_appropriate", rf"\b(?:(?:it|this|that)(?:'s| is)|would be) {_WRONG}(?: and \w+)? for me to\b"),
    ("not_appropriate", rf"\bit(?:'s| is| would be) {_WRONG}(?: (?:and|or) \w+)?"
                        r" to (?:create|generate|produce|write|engage|promote|encourage|assist|help|request|ask|make"
                        rf"|provide|offer)(?={_OURS}{{0,40}}(?:[.!?\n]|$)|{_OURS}{{40}})"),
    ("against_policy", rf"{_AGAINST}{_WHOSE}{_RULES}\b"),
    ("against_policy", rf"\b(?:my|our) (?:\w+ ){{0,2}}?{_RULES} (?:do(?:es)?(?: not|n't)|prevents?|prohibits?|forbids?)"
                       r" (?:me|allow me|permit me|let me)\b"),
))  # fmt: skip


_ABROAD: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "de": (
        ("nicht", "kein", "ablehnen", "gegen", "unange", "unethi"),
        {
            "as_an_ai": r"\b(?:als (?:eine? )?(?:reine )?|ich bin (?:nur |lediglich )?eine? )(?:grosses )?"
            r"(?:ki|künstliche intelligenz|sprachmodell|virtueller assistent)"
            r"(?:-(?:modell|sprachmodell|assistent|assistentin|system|chatbot))?,?(?: und)?"
            r" (?:kann|darf|bin|habe|werde|möchte) (?:ich )?.{0,80}?\b(?:nicht|kein\w*)\b",
            "cannot": r"\b(?:ich (?:kann|darf|werde|möchte)|(?:kann|darf|werde|möchte) ich)(?:"
            r"(?: (?:ihnen|dir|euch|leider|dabei|damit|hierbei|da|hier|bei (?:dieser|diesem|ihrer|deiner|so)"
            r"(?: \w+)?)){0,4} nicht (?:(?:dabei|damit|hierbei) )?(?:weiter)?(?:helfen|behilflich sein)\b"
            r"| (?:\w+ ){0,2}?(?:diese[rnm]?|ihre[rnm]?|deine[rnm]?) (?:\w+ )?(?:anfrage|bitte|aufforderung|frage)"
            r" (?:leider )?nicht (?:erfüllen|beantworten|nachkommen|entsprechen|bearbeiten)"
            r"| (?:leider )?kein(?:e|en|erlei)? (?:(?:solche|derartige|\w+liche|illegale)\w* [^.!?\n]{0,40}?"
            r"(?:erstellen|schreiben|verfassen|bereitstellen|generieren|geben)"
            r"|(?:inhalte|texte) (?:erstellen|schreiben|verfassen|bereitstellen|generieren), (?:die|welche)\b))",
            "decline": r"\bich (?:muss|möchte|werde) (?:leider )?(?:diese|ihre|deine) (?:\w+ )?"
            r"(?:anfrage|bitte|aufforderung) (?:\w+ )?ablehnen",
            "against_policy": r"\bversto(?:ss|ß)en? gegen (?:meine|unsere)\b|\bverstösst gegen (?:meine|unsere|die)"
            r" (?:\w+ ){0,2}?(?:\w*richtlinien|nutzungsbedingungen|grundsätze)",
            "not_appropriate": r"\bes (?:ist|wäre) (?:nicht angemessen|unangemessen|unethisch|nicht richtig)"
            r"(?: (?:von|für) mi[rc]h?\b|,? [^.!?\n]{0,40}?\bzu (?:erstellen|schreiben|verfassen)\b)",
        },
    ),
    "fr": (
        ("je ne", "je n'", "décliner", "refuse", "approprié", "éthique", " mes ", " nos "),
        {
            "as_an_ai": r"\ben tant qu(?:'|e )(?:une? )?(?:ia|intelligence artificielle|modèle (?:de langage"
            r"|linguistique)"
            r"|assistante? (?:virtuel\w*|ia))\b[^.!?\n]{0,20}, je n(?:e |')",
            "cannot": r"\bje (?:ne (?:peux|pourrais?|puis)(?: malheureusement)?(?: pas)?"
            r"|ne suis(?: malheureusement)? pas (?:en mesure|capable|autorisée?|habilitée?) (?:de|à)|refuse de)"
            r"(?: vous| t'| te)? ?(?:aider(?: (?:avec|à|dans|sur) (?:cela|ça|cette|ce|créer|rédiger|écrire)\b|[.,!;]|$)"
            r"|(?:répondre|accéder|donner suite) à (?:cette|votre|ta) (?:demande|question(?! de)|requête)"
            r"|satisfaire (?:à )?(?:cette|votre|ta) (?:demande|requête)"
            r"|(?:fournir|créer|générer|rédiger|écrire|produire) (?:ce (?:type|genre|contenu|texte)|de tel"
            r"|une? telle?|(?:du|des|de) contenus?|d(?:es |')(?:instructions|informations) (?:pour|sur|qui)))",
            "decline": r"\bje (?:dois|préfère|suis contrainte? de) (?:\w+ )?(?:décliner|refuser)"
            r" (?:cette|votre|ta|de (?:répondre|rédiger|créer|participer|vous aider))",
            "against_policy": r"\b(?:contraire à|à l'encontre de|enfreint|viole) (?:mes|nos) (?:\w+ ){0,2}?"
            r"(?:directives|règles|principes|politiques?|consignes|conditions)",
            "not_appropriate": r"\bil (?:n'est pas|ne serait pas|serait|est) (?:approprié|éthique|contraire à l'éthique"
            r"|inapproprié)(?: pour moi| de ma part| de (?:créer|rédiger|générer|produire|fournir)\b)",
        },
    ),
    "es": (
        (
            "no puedo",
            "no podr",
            "no es",
            "no me",
            "no ser",
            "no tengo",
            "me niego",
            "rechazar",
            "declinar",
            "mis ",
            "nuestras",
            "como ",
        ),
        {
            "as_an_ai": r"\bcomo (?:una? )?(?:ia|inteligencia artificial|modelo de (?:lenguaje|ia)"
            r"|asistente (?:virtual|de ia))\b[^.!?\n]{0,40}?, (?:yo )?no (?:puedo|tengo|estoy|me)\b",
            "cannot": r"\b(?:no (?:puedo|podré|podría|estoy en condiciones de|me es posible"
            r"|estoy autorizad[oa] (?:a|para))"
            r"|me niego a) (?:ayudar(?:te|le|l[oa]s|os)?(?: (?:con|en|a) (?:eso|esto|esta|ese|esa|este|crear|escribir"
            r"|redactar|tu|su)\b|[.,;!]|$)"
            r"|(?:cumplir|atender|responder|satisfacer|procesar|acceder)(?: con| a)? (?:esta|esa|tu|su|dicha)"
            r" (?:solicitud|petición|pregunta(?! de)|consulta)"
            r"|(?:proporcionar|ofrecer|crear|generar|escribir|redactar|dar)(?:te|le)? (?:ese tipo|este tipo|contenidos?"
            r"|información (?:que|sobre)|instrucciones (?:para|sobre)|(?:textos?|mensajes?|un (?:texto|mensaje)) que))",
            "decline": r"\b(?:debo|tengo que|prefiero) (?:\w+ )?(?:rechazar|declinar|negarme a)"
            r" (?:(?:esta|esa|tu|su) (?:solicitud|petición)|ayudar|escribir|crear)",
            "against_policy": r"\b(?:va en contra de|viola|infringe|incumple) (?:mis|nuestras) (?:\w+ ){0,2}?"
            r"(?:directrices|políticas|normas|principios)",
            "not_appropriate": r"\bno (?:es|sería) (?:apropiado|ético|correcto) (?:para mí|por mi parte|que yo"
            r"|(?:crear|escribir|generar|redactar)\b)",
        },
    ),
    "it": (
        ("non ", "rifiuta", "declinare", "mie ", "nostre"),
        {
            "as_an_ai": r"\b(?:come|in quanto|essendo) (?:una? |un')?(?:ia|intelligenza artificiale|modello linguistico"
            r"|assistente virtuale)\b[^.!?\n]{0,40}?,? non (?:posso|ho|sono)\b",
            "cannot": r"\bnon (?:posso|potrò|potrei|sono in grado di|mi è (?:possibile|consentito)"
            r"|sono autorizzat[oa] a)"
            r" (?:(?:aiutar|assister)(?:ti|la|vi|e)(?: (?:con|in|a) (?:questo|questa|quello|ciò|creare|scrivere)\b"
            r"|[.,;!]|$)|(?:soddisfare|esaudire|rispondere a|accogliere|elaborare) (?:questa|la tua|la sua|tale)"
            r" (?:richiesta|domanda(?! di))|(?:fornire|creare|generare|scrivere|produrre) (?:questo tipo|tali"
            r"|contenuti|informazioni (?:che|su)|istruzioni (?:per|su)|(?:testi|messaggi|un testo|un messaggio) che))",
            "decline": r"\b(?:devo|preferisco) (?:\w+ )?(?:rifiutare|declinare|rifiutarmi di)"
            r" (?:(?:questa|la tua|la sua) richiesta|aiutare|scrivere|creare)",
            "against_policy": r"\b(?:va contro|viola|contrari[oa] alle) (?:le )?(?:mie|nostre) (?:\w+ ){0,2}?"
            r"(?:linee guida|politiche|regole|norme)",
            "not_appropriate": r"\bnon (?:è|sarebbe) (?:appropriato|etico|corretto) (?:per me|da parte mia"
            r"|(?:creare|scrivere|generare)\b)",
        },
    ),
    "pt": (
        ("não ", "recusar", "declinar", "minhas", "nossas"),
        {
            "as_an_ai": r"\b(?:como|sendo) (?:uma? )?(?:ia|inteligência artificial|modelo de linguagem"
            r"|assistente virtual)\b"
            r"[^.!?\n]{0,40}?, (?:eu )?não (?:posso|tenho|consigo|sou)\b",
            "cannot": r"\bnão (?:posso|poderei|poderia|consigo|sou capaz de|estou autorizad[oa] a|me é permitido)"
            r" (?:(?:te |o |a |lhe )?(?:ajudar|ajudá-l[oa]|auxiliar)(?: você)?(?: (?:com|em|a) (?:isso|isto|esse|essa"
            r"|este|esta|criar|escrever)\b|[.,;!]|$)|(?:atender|cumprir|responder|processar|satisfazer)(?: a| ao| à)?"
            r" (?:esse|este|essa|esta|o seu|seu|a sua|sua) (?:pedido|solicitação|pergunta(?! de))"
            r"|(?:fornecer|criar|gerar|escrever|oferecer|redigir) (?:esse tipo|este tipo|conteúdos?|informações (?:que"
            r"|sobre)|instruções (?:para|sobre)|(?:textos?|mensagens?|um texto|uma mensagem) que))",
            "decline": r"\b(?:devo|tenho que|preciso) (?:\w+ )?(?:recusar|declinar) (?:esse|este|essa|esta"
            r"|o seu|a sua|seu|sua)"
            r" (?:pedido|solicitação)",
            "against_policy": r"\b(?:viola|vai contra|contraria) (?:as |os )?(?:minhas|meus|nossas"
            r"|nossos) (?:\w+ ){0,2}?"
            r"(?:diretrizes|políticas|princípios|regras)",
            "not_appropriate": r"\bnão (?:é|seria) (?:apropriado|ético|correto) (?:para mim|da minha parte"
            r"|(?:criar|escrever|gerar)\b)",
        },
    ),
    "nl": (
        ("niet", "geen", "weigeren", "afwijzen", "mijn", "onze"),
        {
            "as_an_ai": r"\bals (?:een )?(?:ai|taalmodel|kunstmatige intelligentie|virtuele assistent)"
            r"(?:-(?:model|taalmodel|assistent|systeem))?,? (?:kan|mag|heb|ben) ik\b.{0,60}?\b(?:niet|geen)\b",
            "cannot": r"\b(?:ik (?:kan|mag|zal)|(?:kan|mag) ik)(?: (?:u|je|jou|jullie|hier|daar|hierbij|daarbij"
            r"|helaas))"
            r"{0,4} niet (?:(?:mee|bij|verder|met (?:dit|dat|deze|die)(?: \w+)?) )?(?:helpen|assisteren)\b"
            r"|\bik kan (?:helaas )?(?:niet )?(?:aan )?(?:dit|deze|dat|uw|je|jouw) (?:verzoek|vraag|opdracht)"
            r" (?:helaas )?niet (?:inwilligen|beantwoorden|uitvoeren|voldoen)"
            r"|\bik kan (?:helaas )?niet (?:voldoen aan|ingaan op) (?:dit|deze|uw|je|jouw) (?:verzoek|vraag)"
            r"|\bik (?:kan|mag|zal) (?:helaas )?geen (?:inhoud|teksten?|berichten|instructies|informatie)"
            r" (?:maken|schrijven|geven|genereren|verstrekken),? (?:die|dat|over|waarmee|voor)\b",
            "decline": r"\bik (?:moet|zal) (?:dit|uw|je|jouw) (?:verzoek|vraag) (?:\w+ )?(?:weigeren|afwijzen|afslaan)",
            "against_policy": r"\b(?:in strijd met|tegen) (?:mijn|onze) (?:\w+ ){0,2}?(?:richtlijnen|beleid"
            r"|principes)\b",
            "not_appropriate": r"\bhet (?:is|zou) (?:niet (?:gepast|ethisch)|ongepast"
            r"|onethisch)(?: zijn)? (?:voor mij|om"
            r" [^.!?\n]{0,40}?te (?:maken|schrijven|genereren))",
        },
    ),
    "pl": (
        ("nie ", "odm", "narusza", "sprzeczn", "niezgodn"),
        {
            "as_an_ai": r"\bjako (?:sztuczna inteligencja|model językowy|ai|asystent ai|wirtualny asystent),?"
            r" .{0,30}?\bnie (?:mogę|mam|jestem|posiadam)\b",
            "cannot": r"\bnie (?:mogę|jestem w stanie|będę mógł|będę mogła)(?: (?:ci|panu|pani|państwu|wam"
            r"|w tym|niestety))"
            r"{0,3} pomóc(?: (?:w|z|przy) (?:tym|tej|tą|tego|tworzeniu|pisaniu)\b|[.,;!]|$)"
            r"|\bnie mogę (?:spełnić|zrealizować|odpowiedzieć na|wykonać) (?:tej|tego|to|twojej|twoje|pana|pani)"
            r" (?:prośb|pytani|poleceni|żądani)\w*"
            r"|\bnie mogę (?:tworzyć|stworzyć|napisać|pisać|generować|udzielać|udzielić|podać)"
            r" (?:takich|takiej|takiego|tego typu|treści,? któr|(?:instrukcji|informacji),? (?:jak|któr|na temat))",
            "decline": r"\bmuszę (?:\w+ )?odmówić(?: (?:wykonania|spełnienia|odpowiedzi|pomocy|napisania|tej)\b"
            r"|[.,;!]|$)"
            r"|\bodmawiam (?:wykonania|spełnienia|odpowiedzi|pomocy|napisania)\b",
            "against_policy": r"\b(?:narusza|sprzeczn[aey] z|niezgodn[aey] z) (?:moje|moimi|nasze"
            r"|naszymi) (?:\w+ ){0,2}?"
            r"(?:wytyczn|zasad|polityk|regulamin)\w*",
        },
    ),
    "sv": (
        ("inte", "ingen", "inga", "avböja", "avslå", "mina", "våra"),
        {
            "as_an_ai": r"\bsom (?:en )?(?:ai|språkmodell|artificiell intelligens|virtuell assistent)"
            r"(?:-(?:modell|assistent|system))?,? (?:kan|får|har|är) jag\b.{0,60}?\b(?:inte|ingen|inga)\b",
            "cannot": r"\b(?:jag (?:kan|får|kommer)|(?:kan|får|kommer) jag)(?: tyvärr)? inte(?: tyvärr)? (?:(?:att )?"
            r"(?:hjälpa|bistå|assistera)(?: (?:dig|er))?(?: (?:till )?med (?:det|detta|den|att (?:skapa|skriva))\b"
            r"|[.,;!]|$)|(?:uppfylla|svara på|besvara|tillmötesgå|utföra) (?:den|din|er|denna|detta) (?:\w+ )?"
            r"(?:begäran|förfrågan|fråga|önskemål)|(?:skapa|skriva|ge|tillhandahålla|generera) (?:sådan\w*|den typen"
            r"|innehåll|instruktioner (?:för|om)|(?:texter|meddelanden) som))",
            "decline": r"\bjag måste (?:\w+ )?(?:avböja|avslå)(?: (?:din|den|er|denna) (?:begäran|förfrågan)|[.;!]|$)",
            "against_policy": r"\b(?:strider mot|bryter mot) (?:mina|våra) (?:\w+ ){0,2}?(?:riktlinjer|regler"
            r"|principer)\b",
            "not_appropriate": r"\bdet (?:är|vore) (?:inte (?:lämpligt|etiskt)|olämpligt|oetiskt) (?:för mig|av mig"
            r"|att (?:skapa|skriva|generera))\b",
        },
    ),
    "tr": (
        ("yardım", "isteğ", "taleb", "böyle", "bu t", "yapay zek", "dil model", "aykırı", "ters"),
        {
            "as_an_ai": r"\bbir (?:yapay zek[aâ]|dil modeli)(?: \w+){0,3} olarak\b.{0,80}?(?:[ae]m[ae]m"
            r"|[ae]m[ıi]yorum|yok"
            r"|değil)",
            "cannot": r"\byardım(?:cı olam| edem)(?:am|em|ıyorum|iyorum|ayacağım|eyeceğim)"
            r"|\b(?:isteğ|taleb)\w{1,8} (?:yerine getir|karşıla|yanıtla)\w{0,3}m[ae]m\b"
            r"|\b(?:böyle|bu tür|bu tip) .{0,30}?\b(?:sağlay|oluştur|yaz|üret|paylaş)[ae]m[ae]m\b",
            "decline": r"\b(?:isteğ|taleb)\w{1,8} (?:\w+ )?(?:reddet\w+|geri çevir\w+)",
            "against_policy": r"\b(?:politika|kural|yönerge|ilke)(?:lar|ler)[ıi]m(?:[ae]|[ıi]z[ae]) (?:aykırı|ters)",
        },
    ),
    "ja": (
        ("できま", "できかね", "お断り", "違反", "かねます", "ありません"),
        {
            "as_an_ai": r"ai(?:言語モデル|アシスタント|モデル)?(?:として|なので|ですので|であるため).{0,60}?"
            r"(?:できません|できかねます|ありません)",
            "cannot": r"(?:お手伝い|お答え|お応え|ご協力)(?:する|すること)?(?:は|が|を)?(?:でき(?:ません"
            r"|かねます)|(?:いた|致)しかねます)"
            r"|(?:ご要望|リクエスト|ご依頼|要求|ご質問)に(?:は)?.{0,10}?(?:でき(?:ません|かねます)|(?:いた"
            r"|致)しかねます)"
            r"|(?:その|この|[そこ]のような)(?:内容|コンテンツ|文章|メッセージ|情報|種類)[^。]{0,16}?(?:作成"
            r"|生成|提供)(?:する(?:こと)?)?"
            r"(?:は|が)?(?:でき(?:ません|かねます)|(?:いた|致)しかねます)",
            "decline": r"(?:リクエスト|ご依頼|ご要望|要求|回答)[^。]{0,8}?お断り(?:します|いたします|させていただ)",
            "against_policy": r"(?:ガイドライン|ポリシー|利用規約)に(?:違反|反)(?:する|します|している)(?:ため"
            r"|ので|、|。)",
        },
    ),
    "zh": (
        ("无法", "不能", "不会", "没有", "拒绝", "违反", "没办法", "不可以"),
        {
            "as_an_ai": r"(?:作为|我是)(?:一个|一名|一款)?(?:ai|人工智能|大?型?语言模型)(?:语言)?(?:助手|模型"
            r"|系统)?[,,]? ?"
            r"我?.{0,12}?(?:无法|不能|没有能力|不会)",
            "cannot": r"我(?:无法|不能|没办法|不会|不可以)(?:为您|为你|给您|给你|向您|向你)?.{0,4}?"
            r"(?:帮助|协助|提供|满足|完成|回答|生成|撰写|创建|讨论|处理)(?:您的?|你的?|这|该|此|那|任何|有关|关于)"
            r"(?:请求|要求|个请求|个要求|个问题|问题|类|种|样|项|内容|信息|[。,,!]|$)",
            "decline": r"我(?:必须|不得不|只能|选择)?拒绝(?:这个|该|此|您的|你的|这一)?(?:请求|要求)",
            "against_policy": r"违反了?(?:我的|我们的|内容|使用)\w{0,6}?(?:政策|准则|规定|指南|原则)",
        },
    ),
}
"""Language to substrings, one of which every refusal holds, and the patterns by kind of refusal."""

LANGUAGES = ("en", *_ABROAD)
"""ISO 639 codes of the languages in which refusals are found."""

_FOREIGN = {
    f"{language} {name}": re.compile(pattern)
    for language, (_, kinds) in _ABROAD.items()
    for name, pattern in kinds.items()
}


def refusal_of(text: str) -> str:
    """The name of the kind of refusal that the text opens with, such as "cannot" or "against_policy"; "" for none."""
    opening = " ".join(text.translate(_QUOTES).split())[:SEEN_CHARS].casefold()
    found = next((name for name, pattern in _PATTERNS if pattern.search(opening)), "")
    if found:
        return found
    for language, (hints, kinds) in _ABROAD.items():
        if any(hint in opening for hint in hints):
            found = next((name for name in kinds if _FOREIGN[f"{language} {name}"].search(opening)), "")
            if found:
                return found
    return ""
