"""The secrets gate: keys, tokens, passwords. The patterns of the known services are detect-secrets' own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from pydantic import Field

from graft.data.gates.base import Gate, Needs
from graft.data.gates.shared.spans import Span, disjoint, place
from graft.schemas.base import Value
from graft.schemas.gates import Action
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Proposal

_WORDS = ("pass", "pwd", "token", "secret", "key", "bearer", "://", "-----begin")
_LONG = re.compile(r"\S{20}")
"""A text with neither such a word nor a long word contains no known secret; most texts end the search here."""
_BLOCK = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)", re.DOTALL
)
_NAMED = re.compile(
    r"(?P<name>(?:api|access|private)[_ -]?keys?|secret(?:[_ -]?(?:access[_ -]?)?key)?|tokens?"
    r"|pass(?:words?|wort|phrase|wd|code)|pwd|(?<![a-z])pass(?=\s?[:=]))(?!\w)"
    r"[\"']?\s{0,3}(?P<sign>is|are|was|:=|=>|[:=])\s{0,3}[\"']?(?P<value>[^\s\"'`,;<>]{6,200})",
    re.IGNORECASE,
)
_LOGIN = re.compile(r"://[^\s:/@<>]{1,64}:(?P<value>[^\s:/@<>]{3,200})@")
_BEARER = re.compile(r"\bbearer\s{1,3}(?P<value>(?=\S{0,200}\d)[\w.~+/=-]{20,2000})", re.IGNORECASE)
_OWN = re.compile(
    r"(?<![\w-])(?:sk-(?=[\w-]{0,200}\d)[A-Za-z0-9_-]{20,2000}|AIza[\w-]{35}|hf_[A-Za-z0-9]{30,60}"
    r"|npm_[A-Za-z0-9]{36}|github_pat_\w{22,255})(?![\w-])"
)
"""Keys of OpenAI's form, of Google, Hugging Face, npm and GitHub."""
_WEB_TOKEN = re.compile(r"(?<![\w-])eyJ(?:(?P<value>[\w=-]{12,}+\.[\w=-]{8,}+(?:\.[\w=-]*+)?+)|[\w=-]*+)")
"""JSON web tokens with their signature. A false start is skipped whole: else each `eyJ` in it would be read to its end
again."""
_MORE = re.compile(r"[A-Za-z0-9_-]*")
_PLAUSIBLE = re.compile(r"\A(?=.*[A-Za-z])(?=.*[\d!#$%&*+/=?@^_~|-])")
_STRICT = re.compile(r"\A(?=.*[A-Za-z])(?=.*\d).{8}")
_WORDY = re.compile(r"\A[a-z]++(?:[-_/.][a-z]++)++\Z", re.IGNORECASE)
_CODE = re.compile(r"\A(?:[A-Za-z_][\w.]*+[(\[]|\$[{(]?\w++[})]?$|\w++://|\{\{)")
"""Code in place of a value: a call, an item, a variable; and links that reset a password."""
_STAND_IN = re.compile(r"pass(?:word)?|pwd|pw|secret|token|x+|\*+", re.IGNORECASE)
PLUGINS = (
    "AWSKeyDetector", "ArtifactoryDetector", "AzureStorageKeyDetector", "DiscordBotTokenDetector",
    "GitHubTokenDetector", "GitLabTokenDetector", "MailchimpDetector", "PypiTokenDetector", "SendGridDetector",
    "SlackDetector", "SquareOAuthDetector", "StripeDetector", "TelegramBotTokenDetector",
    "TwilioKeyDetector",
)  # fmt: skip
"""detect-secrets plugins whose tokens have a distinctive form. Left out: those by entropy alone, which find too many
secrets in plain texts, and OpenAI's, which takes a minute over a text of many "sk-" (its keys are in _OWN)."""

LEAST_TOKEN = 20
"""Characters of a service's token, at least."""
LEAST_NUMBER = 6
"""Digits of a password that is a number, at least."""


class Settings(Value):
    """Fields under `gates`."""

    secrets: Action = Field(default="reject", description="keys and tokens: reject, or <SECRET> in their place")


class SecretGate(Gate):
    """Rule `secret`. The detail gives the place, never the secret; the score is the number of finds."""

    Settings, cost, name = Settings, 9, "secrets"

    def __init__(self, recipe: Recipe, needs: Needs) -> None:
        super().__init__(recipe, needs)
        self.redacts = recipe.gates.of(Settings).secrets == "redact"

    @classmethod
    def enabled(cls, recipe: Recipe) -> bool:
        """As the recipe sets."""
        return recipe.gates.of(Settings).secrets != "off"

    def check(self, proposal: Proposal) -> GateResult:
        """See the class."""
        for part in proposal.words:
            found = self.find(part)
            if found:
                return self.failed("secret", "; ".join(map(place, found[:5])), len(found))
        return self.passed

    def find(self, text: str) -> list[Span]:
        """Every secret, in the text's order, none overlapping another."""
        return disjoint(_all(text))


KIND = SecretGate


def _all(text: str) -> Iterator[Span]:
    long, low = _LONG.search(text), text.casefold()
    if long:
        yield from (Span("secret", *match.span()) for match in _WEB_TOKEN.finditer(text) if match["value"])
        yield from (Span("secret", *match.span()) for match in _OWN.finditer(text))
        yield from _of_services(text)
    if any(word in low for word in _WORDS):
        yield from (Span("secret", *match.span()) for match in _BLOCK.finditer(text))
        for pattern in (_LOGIN, _BEARER):
            matches = (match for match in pattern.finditer(text) if not _STAND_IN.fullmatch(match["value"]))
            yield from (Span("secret", *match.span("value")) for match in matches)
        yield from (Span("secret", *match.span("value")) for match in _NAMED.finditer(text) if _is_value(match))


def _of_services(text: str) -> Iterator[Span]:
    """Everything in the form of a service's token, whole: `analyze_string` gives only a part of some ("ghp").

    Their tokens hold a digit; plain words do not. A match within the word of the match before ends where that does:
    it is a part of the same find, or of a word without a digit.
    """
    for pattern in _patterns():
        done = 0
        for match in pattern.finditer(text):
            if match.end() <= done:
                continue
            start, end = match.span(1 if pattern.groups and len(match[1] or "") >= LEAST_TOKEN else 0)
            start += len(text[start:end]) - len(text[start:end].lstrip('"=: \n\t'))
            end = start + len(text[start:end].rstrip('" \n\t'))
            rest = _MORE.match(text, end)
            done = end = rest.end() if rest else end
            if end - start >= LEAST_TOKEN and any(sign.isdigit() for sign in text[start:end]):
                yield Span("secret", start, end)


def _is_value(match: re.Match[str]) -> bool:
    """Return True if the text after "password is" or "token =" is a secret, not a plain word or a piece of code."""
    name, value = match["name"].casefold(), match["value"].rstrip(".!?)")
    password = name.startswith("p") and "key" not in name
    if _CODE.match(match["value"]) or _WORDY.match(value):
        return False
    if password and value.isdecimal():
        return len(value) >= LEAST_NUMBER
    return bool((_PLAUSIBLE if password or not match["sign"][0].isalpha() else _STRICT).match(value))


@lru_cache(maxsize=1)
def _patterns() -> tuple[re.Pattern[str], ...]:
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    known: dict[str, Any] = {kind.__name__: kind for kind in get_mapping_from_secret_type_to_class().values()}
    return tuple(pattern for name in PLUGINS for pattern in known[name]().denylist)
