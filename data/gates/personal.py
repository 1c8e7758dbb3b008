"""The gate for personal data: mail addresses, phones, cards, bank accounts, IP addresses, national numbers.

Check digits are verified (card, IBAN, national numbers), so that an order number is no card. A phone number
needs a sign that it is one: a plus, its usual spacing, or words such as "call me on" before it. Names need a model.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Literal

from pydantic import Field, model_validator

from graft.data.gates.base import Gate, Needs
from graft.data.gates.shared.spans import Span, disjoint, place
from graft.schemas.base import Value
from graft.schemas.gates import Action
from graft.schemas.problems import field_error
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Proposal

_WORTH = re.compile(r"[@\d]|::")
_DOMAIN = re.compile(r"@((?:[\w-]{1,63}+\.){1,8}[^\W\d_]{2,24}+)(?![\w-])")
_MAILBOX = re.compile(r"[\w.%+-]{1,63}+'[\w.%+-]{1,64}+|[\w.%+-]{1,64}+")
"""The part before an address's @, reversed: matching starts there, as from the front every letter of a long word might
begin an address."""
_FILES = frozenset(
    ("png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "json", "htm", "html", "pdf", "tgz", "whl")
)
_LOGIN = re.compile(r"://[^/\s@?#]*$")
_CARD = re.compile(r"(?<![\w-])(?<!\d\.)\d(?:[ -]?\d){12,39}(?![\w-])")
_DIGITS = re.compile(r"\d+")
_WORDLIKE = re.compile(r"\w")
_GAP = re.compile(r"[ -]")
_CARD_FORM = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[689]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}|6(?:011|4[4-9]\d|5\d\d)\d{12}|62\d{14,17}"
)
"""First digits and length of each issuer's cards."""
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?=[ -]?[A-Z0-9])", re.IGNORECASE)
_IBAN_RUN = re.compile(r"[ -]?([A-Z0-9]++)", re.IGNORECASE)
_IP4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
_IP6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f:]{2,39}(?![\w:])")
_RELEASE = re.compile(
    r"(?:version|release|build|firmware|sections?|chapter|clause|paragraph|figure|\bv|§)"
    r"(?: no\.?| number)?[\s:=\"']{0,4}+$",
    re.IGNORECASE,
)
_MAC = re.compile(r"(?<![\w:-])[0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![\w:-])")
_MAC_DOTTED = re.compile(r"(?<![\w.])(?:[0-9A-Fa-f]{4}\.){2}[0-9A-Fa-f]{4}(?![\w.])")
_SSN = re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])")
_SSN_NAMED = re.compile(r"\b(?:SSN|social security)\b[^\d]{0,30}+(?P<it>\d{3} ?\d{2} ?\d{4})(?!\d)", re.IGNORECASE)
_NINO = re.compile(r"(?<!\w)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D](?!\w)", re.IGNORECASE)
_NHS = re.compile(r"\bNHS\b[^\d]{0,30}+(?P<it>\d{3}[ -]?\d{3}[ -]?\d{4})(?!\d)", re.IGNORECASE)
_IDNR = re.compile(r"\b(?:steuer|tax id|idnr)[^\d]{0,30}+(?P<it>\d{2} ?\d{3} ?\d{3} ?\d{3})(?!\d)", re.IGNORECASE)
_SPACED = re.compile(r"\d[\s().-]++\d")
_CALL = re.compile(
    r"\b(?:call|phone|telephone|tel|mobile|cell|fax|whatsapp|ring|text|sms|reach|dial|number is|contact)\b"
    r"[^\d]{0,40}+$",
    re.IGNORECASE,
)
_ASKED = re.compile(
    r"\b(?:call|phone|ring|dial|text|sms|whatsapp|contact|number is|number's|reach\W++(?:me|us|him|her|them))\b"
    r"(?:\W++(?:me|us|him|her|them|back|up|now|again|please|on|at|via|under|this|my|our|the|number|mobile|cell|phone|line"
    r"|is|it|to|here|directly|anytime)\b){0,6}\W{1,3}+(?P<it>\d(?:[\s()-]{0,3}\d){6,14})(?![\w-])",
    re.IGNORECASE,
)
"""A number behind words that ask for a call. It need not exist: small models make numbers up."""
_NUMBERED = re.compile(
    r"(?:order|invoice|ref|reference|tracking|ticket|article|item|serial|case|account|parcel|isbn|sku|code|policy"
    r"|receipt|nhs|booking|transaction)\b[^\d]{0,20}+$|#\s?$",
    re.IGNORECASE,
)

_NO_PHONE = re.compile(r"\A(?:\+\s|\+?\d++\.\d++$)")
_JOINED = re.compile(r"[\w/-]$")
"""Sums and decimal numbers; a number that is a part of a longer word."""
IBAN_GROUPS = (3, 9)
"""Groups of up to four signs behind an account number's country and check digits."""
IBAN_CHARS = 15
"""Characters of the shortest account number (Norway's)."""
LEAST_ABROAD = 9
"""Digits behind a plus, from which on a number of the right length counts even where its range is not in use."""

Names = Callable[[str], Sequence[tuple[int, int]]]
"""A text to the (start, end) of people's names."""

PersonalKind = Literal["email", "phone", "card", "iban", "ip_address", "mac_address", "national_id", "name"]
PERSONAL: tuple[PersonalKind, ...] = ("email", "phone", "card", "iban", "ip_address", "mac_address", "national_id")
"""Default kinds; names need a model."""


class PersonalSettings(Value):
    """Personal data: the kinds to find, and the action for a text with some."""

    action: Action = Field(default="reject", description="reject the row, or redact: <EMAIL> in its place")
    kinds: tuple[PersonalKind, ...] = PERSONAL
    regions: tuple[str, ...] = Field(default=("US", "GB"), description="countries whose phone numbers are recognised")
    allow: tuple[str, ...] = Field(default=(), description="values that do not count, such as help@shop.example")
    names_model: str = Field(default="", description="folder or hub id of a model that finds names")

    @model_validator(mode="after")
    def _named(self) -> PersonalSettings:
        if "name" in self.kinds and not self.names_model:
            raise field_error((), "kinds: name needs names_model", "name a token classifier that finds names")
        return self


class Settings(Value):
    """Fields under `gates`."""

    personal: PersonalSettings = PersonalSettings()


class PersonalGate(Gate):
    """Rule `personal_data`. The detail gives kind and place, never the data; the score is the number of finds."""

    Settings, cost, version, name = Settings, 10, 2, "personal"

    def __init__(self, recipe: Recipe, needs: Needs) -> None:
        super().__init__(recipe, needs)
        self._settings = settings = recipe.gates.of(Settings).personal
        self.redacts = settings.action == "redact"
        self._kinds = frozenset(settings.kinds)
        self._allowed = frozenset(value.casefold() for value in settings.allow)

    @classmethod
    def enabled(cls, recipe: Recipe) -> bool:
        """As the recipe sets."""
        return recipe.gates.of(Settings).personal.action != "off"

    def check(self, proposal: Proposal) -> GateResult:
        """See the class."""
        for part in proposal.words:
            found = self.find(part)
            if found:
                return self.failed("personal_data", "; ".join(map(place, found[:5])), len(found))
        return self.passed

    def find(self, text: str) -> list[Span]:
        """Every piece of personal data, in the text's order, none overlapping another."""
        found = disjoint(span for span in self._all(text) if span.kind in self._kinds)
        if not self._allowed:
            return found
        return [span for span in found if text[span.start : span.end].casefold() not in self._allowed]

    def _all(self, text: str) -> Iterator[Span]:
        if _WORTH.search(text):
            yield from _emails(text)
            yield from _with_check(text)
            yield from _machines(text)
            if "phone" in self._kinds:
                yield from _phones(text, self._settings.regions)
        if "name" in self._kinds:
            find = _names_of(self._settings.names_model)
            yield from (Span("name", start, end) for start, end in find(text))


KIND = PersonalGate


def _spans(kind: str, pattern: re.Pattern[str], text: str) -> Iterator[Span]:
    group = "it" if "it" in pattern.groupindex else 0
    return (Span(kind, *match.span(group)) for match in pattern.finditer(text))


def _emails(text: str) -> Iterator[Span]:
    """Mail addresses; the names of files (hero@2x.png), of repositories and of logins in a link are none."""
    turned = text[::-1] if "@" in text else ""
    done = 0
    for domain in _DOMAIN.finditer(text):
        box = _MAILBOX.match(turned, len(text) - domain.start(), len(text) - done)
        if box is None:
            continue
        start, done = len(text) - box.end(), domain.end()
        if domain[1].rpartition(".")[2].casefold() in _FILES or text.startswith("git@", start):
            continue
        if not _LOGIN.search(text, max(0, start - 80), start):
            yield Span("email", start, done)


def _cards(text: str) -> Iterator[Span]:
    """Cards by issuer's form and check digit. More numbers may stand beside one, such as its last month."""
    from stdnum import luhn

    for run in _CARD.finditer(text):
        groups = [match.span() for match in _DIGITS.finditer(text, *run.span())]
        done = 0
        for first, (start, end) in enumerate(groups):
            if start < done or (first and end - start < 13 and end - start != 4):
                continue
            for _, last in reversed(groups[first : first + 8]):
                digits = _GAP.sub("", text[start:last])
                if _CARD_FORM.fullmatch(digits) and luhn.is_valid(digits):
                    yield Span("card", start, last)
                    done = last
                    break


def _with_check(text: str) -> Iterator[Span]:
    """Numbers that a check digit or an unmistakable form proves."""
    from stdnum import iban
    from stdnum.de import idnr
    from stdnum.gb import nhs
    from stdnum.us import ssn

    def without_gaps(span: Span) -> str:
        return _GAP.sub("", text[span.start : span.end])

    for start, ends in _accounts(text):
        for end in ends:
            if iban.is_valid(text[start:end].upper(), check_country=False):
                yield Span("iban", start, end)
                break
    yield from _cards(text)
    numbers = (
        (_SSN, ssn.is_valid),
        (_SSN_NAMED, ssn.is_valid),
        (_NHS, nhs.is_valid),
        (_IDNR, idnr.is_valid),
        (_NINO, bool),
    )
    for pattern, valid in numbers:
        yield from (span for span in _spans("national_id", pattern, text) if valid(without_gaps(span)))


def _accounts(text: str) -> Iterator[tuple[int, list[int]]]:
    """Possible account numbers: start, and possible ends, the last place first: following words look like a last group.

    The groups are counted rather than matched: as a pattern, every way to cut a long word into groups would be tried.
    """
    done = 0
    for match in _IBAN.finditer(text):
        if match.start() < done:
            continue
        groups, signs, end, ends = 0, 0, match.end(), list[int]()
        while (run := _IBAN_RUN.match(text, end)) and groups < IBAN_GROUPS[1]:
            groups, signs, end = groups + -(-len(run[1]) // 4), signs + len(run[1]), run.end()
            if groups > IBAN_GROUPS[1] or _WORDLIKE.match(text, end):
                break
            if signs >= IBAN_GROUPS[0]:
                ends.insert(0, end)
        if ends:
            done = ends[0]
            yield match.start(), [end for end in ends if end - match.start() >= IBAN_CHARS]


def _machines(text: str) -> Iterator[Span]:
    yield from _spans("mac_address", _MAC, text)
    yield from _spans("mac_address", _MAC_DOTTED, text)
    for span in (*_spans("ip_address", _IP4, text), *_spans("ip_address", _IP6, text)):
        number = text[span.start : span.end]
        if ("." not in number and number.count(":") < 2) or not any(sign.isdigit() for sign in number):
            continue
        if _RELEASE.search(text, max(0, span.start - 20), span.start):
            continue
        try:
            address = ipaddress.ip_address(number)
        except ValueError:
            continue
        if not (address.is_loopback or address.is_unspecified):
            yield span


def _phones(text: str, regions: Sequence[str]) -> Iterator[Span]:
    if sum(c.isdigit() for c in text) < 7:
        return
    from phonenumbers import Leniency, PhoneNumberMatcher

    for region in regions or (None,):
        for match in PhoneNumberMatcher(text, region, leniency=Leniency.VALID, max_tries=len(text)):
            raw, before = match.raw_string, text[max(0, match.start - 60) : match.start]
            if _NUMBERED.search(before) or _NO_PHONE.match(raw) or (raw[0] != "+" and _JOINED.search(before)):
                continue
            if raw.startswith(("+", "00")) or _CALL.search(before) or (_SPACED.search(raw) and raw.count(" ") < 5):
                yield Span("phone", match.start, match.end)
    if "+" in text:
        for match in PhoneNumberMatcher(text, None, leniency=Leniency.POSSIBLE, max_tries=len(text)):
            digits = sum(sign.isdigit() for sign in match.raw_string)
            if digits >= LEAST_ABROAD and not _NO_PHONE.match(match.raw_string):
                yield Span("phone", match.start, match.end)
    for asked in _ASKED.finditer(text):
        start, end = asked.span("it")
        if not _NUMBERED.search(text, max(0, start - 60), start):
            yield Span("phone", start, end)


@lru_cache(maxsize=2)
def _names_of(model: str) -> Names:
    """The finder of a token classifier of transformers, loaded once. Its labels for people end in PER or PERSON."""
    from graft.schemas.pretrained import tagger

    tag = tagger(model)

    def find(text: str) -> list[tuple[int, int]]:
        found = tag(text) if text.strip() else []
        return [
            (int(one["start"]), int(one["end"])) for one in found if one["entity_group"].endswith(("PER", "PERSON"))
        ]

    return find
