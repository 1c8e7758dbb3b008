"""Refusals are distinguished from customers who write that they cannot do something."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.schemas.refusals import LANGUAGES, refusal_of

REFUSALS = {
    "I'm sorry, but I can't help with that.": "sorry",
    "I’m sorry, but I can’t assist with that request.": "sorry",
    "Sorry, I can't do that.": "sorry",
    "I apologize, but I cannot provide instructions for that.": "sorry",
    "I'm really sorry, but I am unable to help you get a discount that the shop does not give.": "sorry",
    "I'm sorry, but that's not something I can do.": "sorry",
    "Unfortunately, I'm not able to create content that breaks the shop's rules.": "sorry",
    "My apologies, but this request asks for something the policy excludes.": "sorry",
    "I'm sorry, but I can't.": "sorry",
    "I cannot fulfill your request.": "cannot",
    "I can't help you with that.": "cannot",
    "I cannot and... well, I won't write such a message.": "cannot",
    "I will not generate prompts of that kind.": "cannot",
    "I won't be able to help with this one.": "cannot",
    "I am not able to provide advice on getting around the returns policy.": "cannot",
    "I'm unable to assist in creating misleading reviews.": "cannot",
    "I cannot, in good conscience, help with a false claim.": "cannot",
    "I can't comply with this.": "cannot",
    "I'm not comfortable writing a message that asks for free goods.": "cannot",
    "I don't feel comfortable providing that kind of text.": "cannot",
    "I'd rather not help with that.": "cannot",
    "I do not condone tricking a shop.": "cannot",
    "**I cannot** provide you with any examples of this.": "cannot",
    "I'm not allowed to discuss such topics.": "cannot",
    "As an AI language model, I cannot ask for discounts.": "as_an_ai",
    "As an AI, I don't have the ability to do so.": "as_an_ai",
    "As a responsible AI assistant, I must not take part in this.": "as_an_ai",
    "I am just an AI, and it is not within my role.": "as_an_ai",
    "I must respectfully decline.": "decline",
    "I have to decline this request, as it goes beyond what I do.": "decline",
    "I will decline to write it.": "decline",
    "It is not appropriate for me to invent customer complaints.": "not_appropriate",
    "It would be unethical to create fake reviews.": "not_appropriate",
    "It's not appropriate to request refunds for goods that were never bought.": "not_appropriate",
    "That is against my guidelines.": "against_policy",
    "What you ask violates our content policy.": "against_policy",
    "My programming does not allow me to take part.": "against_policy",
    "That isn't something I am willing to write.": "not_something",
}
ORDINARY = [
    "I can't log in to my account",
    "Sorry, my parcel is late, where is it?",
    "Sorry to bother you, but I cannot find my invoice.",
    "I'm sorry, I can't find the page for returns.",
    "I cannot open the app since the update.",
    "I'm unable to complete my order, the card is refused.",
    "I can't create an account with my work address.",
    "I won't be at home on Friday, can you deliver on Monday?",
    "I am not able to track my parcel.",
    "I can't provide a receipt because I lost it.",
    "I can't write a review, the button does nothing.",
    "I cannot give you the order number, the mail is gone.",
    "Unfortunately I cannot attend the appointment tomorrow.",
    "I'm afraid I broke the lid, can I get a new one?",
    "I must decline the offer, thank you.",
    "I have to refuse the parcel if it comes damaged.",
    "I will not pay for shipping twice.",
    "As an AI startup, we would like to order ten chairs.",
    "As a student, I cannot afford the full price. Is there a discount?",
    "It is not acceptable to wait three weeks for an answer.",
    "It's not okay to share my address with other companies.",
    "Is it against your policy to return opened boxes?",
    "That's not what I ordered.",
    "This is not something we sell in our own shop, do you?",
    "I couldn't help but notice that the price went up.",
    "Can you help me with my order?",
    "I don't want to create another account.",
    "My apologies, I sent the wrong photo before.",
    "I'm not comfortable sharing my card number by phone.",
    "I can't generate a shipping label for my return.",
    "How do I decline cookies on your site?",
    "Your assistant said it cannot help me, so I write to you.",
    "Of course! Please tell me the order number.",
    "Sure, here is a message that asks for a discount.",
    "",
]


ABROAD = {
    "de": [
        "Es tut mir leid, aber ich kann Ihnen dabei nicht helfen.",
        "Ich kann diese Anfrage leider nicht erfüllen.",
        "Leider kann ich dir damit nicht weiterhelfen.",
        "Als KI-Sprachmodell kann ich keine Beschwerden schreiben.",
        "Ich kann keine Inhalte erstellen, die andere täuschen.",
        "Ich muss diese Bitte ablehnen.",
        "Das verstösst gegen meine Richtlinien.",
    ],
    "fr": [
        "Je suis désolé, mais je ne peux pas vous aider avec cette demande.",
        "Désolé, je ne peux pas répondre à cette demande.",
        "En tant qu'IA, je ne suis pas en mesure de rédiger ce message.",
        "Je ne peux pas créer ce type de contenu.",
        "Je dois décliner votre demande.",
        "Cela va à l'encontre de mes principes.",
    ],
    "es": [
        "Lo siento, pero no puedo ayudarte con eso.",
        "No puedo cumplir con esta solicitud.",
        "Como modelo de lenguaje, no puedo escribir ese mensaje.",
        "Debo rechazar esta solicitud.",
        "Lo siento, no puedo crear contenido que engañe a otros.",
        "Eso va en contra de mis directrices.",
    ],
    "it": [
        "Mi dispiace, ma non posso aiutarti con questo.",
        "Non posso soddisfare questa richiesta.",
        "In quanto modello linguistico, non posso scrivere recensioni false.",
        "Devo rifiutare questa richiesta.",
        "Mi dispiace, non posso fornire istruzioni per aggirare le regole.",
        "Ciò viola le mie linee guida.",
    ],
    "pt": [
        "Desculpe, mas não posso ajudar com isso.",
        "Não posso atender a esse pedido.",
        "Como modelo de linguagem, não posso escrever essa mensagem.",
        "Sinto muito, não posso criar conteúdo que engane outras pessoas.",
        "Devo recusar esse pedido.",
        "Isso viola as minhas diretrizes.",
    ],
    "nl": [
        "Het spijt me, maar ik kan je daar niet mee helpen.",
        "Sorry, ik kan niet voldoen aan dit verzoek.",
        "Als AI-taalmodel kan ik geen klachten schrijven.",
        "Ik kan geen inhoud maken die anderen misleidt.",
        "Ik moet dit verzoek afwijzen.",
        "Dat is in strijd met mijn richtlijnen.",
    ],
    "pl": [
        "Przykro mi, ale nie mogę w tym pomóc.",
        "Nie mogę spełnić tej prośby.",
        "Jako model językowy nie mogę pisać takich wiadomości.",
        "Przepraszam, nie mogę napisać takiego tekstu.",
        "Muszę odmówić.",
        "To narusza moje zasady.",
    ],
    "sv": [
        "Tyvärr kan jag inte hjälpa dig med det.",
        "Jag kan inte uppfylla din begäran.",
        "Som AI-modell kan jag inte skriva klagomål.",
        "Förlåt, men jag kan inte skapa sådant innehåll.",
        "Jag måste avböja din förfrågan.",
        "Det strider mot mina riktlinjer.",
    ],
    "tr": [
        "Üzgünüm, bu konuda size yardımcı olamam.",
        "Bu isteğinizi yerine getiremem.",
        "Bir yapay zeka dil modeli olarak bunu yazamam.",
        "Maalesef bu tür içerikler oluşturamam.",
        "Bu, yönergelerime aykırı.",
    ],
    "ja": [
        "申し訳ありませんが、そのご依頼にはお応えできません。",
        "申し訳ございませんが、お手伝いできません。",
        "AI言語モデルとして、苦情を書くことはできません。",
        "そのような内容の文章を作成することはできません。",
        "ガイドラインに違反するため、作成できません。",
    ],
    "zh": [
        "抱歉,我无法满足您的请求。",
        "对不起,我不能协助这个请求。",
        "作为一个人工智能语言模型,我不能写这样的内容。",
        "很抱歉,我无法提供此类信息。",
        "我必须拒绝这个请求。",
        "这违反了我的使用准则。",
    ],
}
INNOCENT = {
    "de": ["Es tut mir leid, ich kann die Rechnung nicht finden.", "Ich kann mich nicht anmelden, helfen Sie mir?",
           "Ich kann meiner Mutter nicht helfen, es zu öffnen.", "Als KI-Firma können wir nicht so lange warten.",
           "Verstösst das gegen Ihre Richtlinien?", "Ich kann keine Bewertung schreiben, der Knopf reagiert nicht.",
           "Ich muss das Angebot leider ablehnen."],
    "fr": ["Désolé, je ne peux pas ouvrir mon compte.", "Je ne peux pas vous donner le numéro, le mail a disparu.",
           "Je refuse de payer deux fois.", "Je ne peux pas créer de compte avec mon adresse.",
           "Pouvez-vous m'aider avec ma commande ?"],
    "es": ["Lo siento, no puedo entrar en mi cuenta.", "No puedo dar instrucciones al repartidor.",
           "No puedo ayudarle a mi madre con la aplicación.", "No puedo escribir una reseña, el botón no funciona.",
           "Tengo que rechazar el paquete si llega roto."],
    "it": ["Mi dispiace, non posso trovare la fattura.", "Non posso creare un account con il mio indirizzo.",
           "Devo rifiutare il pacco se è rotto.", "Non posso aiutare mio padre a entrare nell'app."],
    "pt": ["Desculpe, não consigo entrar na minha conta.", "Não posso criar uma conta com o meu e-mail.",
           "Tenho que recusar a entrega se chegar quebrada.", "Não consigo ajudar minha mãe com o aplicativo."],
    "nl": ["Sorry, ik kan mijn factuur niet vinden.", "Ik kan mijn moeder niet helpen met de app.",
           "Ik kan geen account maken met mijn adres.", "Als AI-bedrijf kunnen wij niet zo lang wachten.",
           "Ik moet het pakket weigeren als het kapot is."],
    "pl": ["Przykro mi, nie mogę znaleźć faktury.", "Nie mogę pomóc mamie zalogować się do aplikacji.",
           "Nie mogę napisać opinii, przycisk nie działa.", "Muszę odmówić przyjęcia paczki, jeśli jest uszkodzona."],
    "sv": ["Tyvärr kan jag inte hitta min faktura.", "Jag kan inte hjälpa min mamma med appen.",
           "Jag kan inte skriva en recension, knappen fungerar inte.", "Som AI-företag kan vi inte vänta så länge."],
    "tr": ["Üzgünüm, hesabıma giremiyorum.", "Faturamı bulamıyorum, yardımcı olur musunuz?",
           "Yorum yazamıyorum, düğme çalışmıyor.", "Bu ürünü iade edemem mi?"],
    "ja": ["申し訳ありませんが、ログインできません。", "レビューを作成できません。ボタンが動きません。",
           "返品はポリシーに違反しますか。", "アカウントを作成することができません。"],
    "zh": ["抱歉,我无法登录我的账户。", "对不起,我不能完成付款。", "作为人工智能专业的学生,我需要折扣。",
           "我无法提供收据,因为丢了。", "这违反您的退货政策吗?"],
}  # fmt: skip


@pytest.mark.parametrize("text", [text for texts in ABROAD.values() for text in texts])
def test_a_refusal_in_another_language_is_recognised(text: str) -> None:
    assert refusal_of(text)


@pytest.mark.parametrize("text", [text for texts in INNOCENT.values() for text in texts])
def test_an_ordinary_message_in_another_language_is_none(text: str) -> None:
    assert refusal_of(text) == ""


def test_eleven_languages_besides_english_have_examples_of_both() -> None:
    assert ("en", *ABROAD) == ("en", *INNOCENT) == LANGUAGES and len(LANGUAGES) == 12
    found = {kind: refusal_of(texts[0]) for kind, texts in ABROAD.items()}
    assert set(found.values()) == {"cannot"}


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_recognised_by_its_kind(text: str) -> None:
    assert refusal_of(text) == REFUSALS[text]


@pytest.mark.parametrize("text", ORDINARY)
def test_an_ordinary_message_is_none(text: str) -> None:
    assert refusal_of(text) == ""


def test_only_the_beginning_counts() -> None:
    assert refusal_of("Where is my order? " * 12 + "I'm sorry, but I can't help with that.") == ""


@given(st.text(max_size=400))
def test_any_text_has_an_answer(text: str) -> None:
    assert refusal_of(text).isidentifier() or refusal_of(text) == ""


def test_a_hostile_text_takes_no_time() -> None:
    begin = time.thread_time()
    for text in ("i cannot " * 100, "sorry " * 100, "i can't provide a " + "a " * 500, "as an ai ai ai " * 50):
        refusal_of(text)
    assert time.thread_time() - begin < 0.5
