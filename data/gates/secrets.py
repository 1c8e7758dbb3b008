"""The gate for secrets: keys, tokens, passwords. The patterns of the known services are detect-secrets' own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from data.gates.base import failed, passed
from data.gates.spans import Span, disjoint, place
from schemas.rows import GateResult

_WORTH = re.compile(
    r"-----BEGIN|AKIA|ASIA|A3T[A-Z0-9]|gh[pousr]_|github_pat|glpat-|xox[a-z]-|hooks\.slack|eyJ|\bsk-|[sr]k_(?:live|test)"
    r"|sq0|npm_|pypi-|SG\.|AKC|AP[\dABCDEF]|\b(?:AC|SK)[a-z0-9]{32}|-us\d|://[^/\s:]+:[^/\s@]+@|\d{8,10}:[\w-]{35}"
    r"|api.?key|secret|token|passw|passcode|pwd|AccountKey|[MNO][\w-]{23,25}\.[\w-]{6}\.",
    re.IGNORECASE,
)
_BLOCK = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)", re.DOTALL
)
_NAMED = re.compile(
    r"\b(?:api[_ -]?keys?|secret(?:[_ -]?key)?|(?:access[_ -]?|auth[_ -]?)?tokens?|password|passwd|passcode|pwd)"
    r"\b[\"']?\s{0,3}(?:is|are|was|:=|=>|[:=])\s{0,3}[\"']?(?P<value>[^\s\"'`,;<>]{6,200})",
    re.IGNORECASE,
)
_OURS = re.compile(r"\bsk-(?:[a-z]{2,10}-)?[A-Za-z0-9_-]{20,200}")
_PLAUSIBLE = re.compile(r"(?=.*[A-Za-z])(?=.*[\d!#$%&*+/=?@^_~|-])")
_HYPHENATED = re.compile(r"[a-z]+(?:[-_/][a-z]+)+[.!?)]*", re.IGNORECASE)
PLUGINS = (
    "AWSKeyDetector", "ArtifactoryDetector", "AzureStorageKeyDetector", "BasicAuthDetector", "DiscordBotTokenDetector",
    "GitHubTokenDetector", "GitLabTokenDetector", "JwtTokenDetector", "MailchimpDetector", "NpmDetector",
    "OpenAIDetector", "PypiTokenDetector", "SendGridDetector", "SlackDetector", "SquareOAuthDetector", "StripeDetector",
    "TelegramBotTokenDetector", "TwilioKeyDetector",
)  # fmt: skip
"""Those whose tokens have a form of their own; the ones by entropy alone call too much a secret in plain texts."""


class SecretGate:
    """Rule `secret`. The detail says the place, never the secret; the score is how many were found."""

    name = "secrets"

    def __init__(self) -> None:
        self._passed = passed(self.name)

    def check(self, text: str, response: str | None, label: str) -> GateResult:
        """See the class."""
        for part in (text, response):
            found = self.find(part) if part else []
            if found:
                return failed(self.name, "secret", "; ".join(map(place, found[:5])), len(found))
        return self._passed

    def find(self, text: str) -> list[Span]:
        """Every secret, in the text's order, none overlapping another."""
        return disjoint(_all(text)) if _WORTH.search(text) else []


def _all(text: str) -> Iterator[Span]:
    yield from (Span("secret", *match.span()) for match in _BLOCK.finditer(text))
    yield from (Span("secret", *match.span()) for match in _OURS.finditer(text))
    for plugin in _plugins():
        for value in plugin.analyze_string(text):
            start = text.find(str(value))
            if value and start >= 0:
                yield Span("secret", start, start + len(str(value)))
    for match in _NAMED.finditer(text):
        value = match["value"]
        if _PLAUSIBLE.match(value.rstrip(".!?)")) and not _HYPHENATED.fullmatch(value):
            yield Span("secret", *match.span("value"))


@lru_cache(maxsize=1)
def _plugins() -> tuple[Any, ...]:
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    known: dict[str, Any] = {kind.__name__: kind for kind in get_mapping_from_secret_type_to_class().values()}
    return tuple(known[name]() for name in PLUGINS if name in known)
