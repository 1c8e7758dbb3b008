"""Detects a model's refusal.

Only the beginning is checked, as models refuse at once. Customers are unable to do things as well ("I can't log in"),
so an inability counts only if it is an inability to help, or to write, give or discuss something requested.
English only: a refusal in another language is not found.
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


def refusal_of(text: str) -> str:
    """The name of the kind of refusal that the text opens with, such as "cannot" or "against_policy"; "" for none."""
    opening = " ".join(text.translate(_QUOTES).split())[:SEEN_CHARS].casefold()
    return next((name for name, pattern in _PATTERNS if pattern.search(opening)), "")
