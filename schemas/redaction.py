"""Removes keys, tokens and passwords from a text before it is stored or shown.

Secrets are: the value of every environment variable that a recipe names in `api_key_env`, or whose name looks like
a key's; and text in a key's shape (Bearer tokens, sk-..., passwords in URLs, `api_key=...`). A value is found raw and
as JSON, repr and URLs write it, also where those are nested.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

HIDDEN = "(redacted)"

SHORTEST = 4
"""Least characters of a secret: hiding shorter values would make holes in every text."""

DEEPEST = 8
"""Levels of nested fields that are searched; deeper values are hidden whole."""

KEY_LIKE = re.compile(r"(api_?key|access_?key|secret_?key|private_?key|token|secret|password|passwd)$", re.IGNORECASE)
"""Names of environment variables that hold a secret."""

FIELD_LIKE = re.compile(
    r"((?:api|access|private|secret|auth|subscription|signing|encryption)[_-]?key(?:[_-]?id)?|^key|^auth|token|secret"
    r"|password|passwd|passphrase|authorization|cookie|headers?|credentials?)$",
    re.IGNORECASE,
)
"""Names of fields that hold a secret. `api_key_env` and `prompt_tokens` are not among them."""

NAMES = frozenset({"name", "kind"})
"""Fields of a task that are not prose: all its other texts are a person's words."""

SHORTEST_IN_RECIPE = 8
"""Least characters of a variable's value: a shorter one may well be a word of a recipe."""

_RUN = re.compile(r"[A-Za-z0-9]{16,}+")
_DIGIT = re.compile(r"\d")


def _keyed(match: re.Match[str]) -> str:
    """A word after a service's prefix: hidden if it contains a digit, as keys do."""
    return HIDDEN if _DIGIT.search(match[1]) else match[0]


_SHAPES: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"(://[^\s/:@]*+):[^\s/@]++@"), rf"\1:{HIDDEN}@"),
    (re.compile(r"(\bbearer(?:\s|%20|\+)+)[\w.~+/=%*-]{6,}", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"(\bauthorization\W{1,6}(?:basic|token|digest)\s+)[^\s\"',;]+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"(?<![A-Za-z0-9])sk-[\w*-]{12,}"), HIDDEN),
    (
        re.compile(
            r"(?<![A-Za-z0-9])(?:AIza|AKIA|(?:pk|rk|gsk|xai|hf|gh[a-z]|github_pat|glpat|xox[a-z]|nvapi|r8|pplx)[-_])"
            r"([\w*-]{12,}+)"
        ),
        _keyed,
    ),
    (
        re.compile(
            r"((?:api[_-]?key|access[_-]?token|auth[_-]?token|secret|password|passwd|[?&]key)[\"']?\s*+[:=]\s*+[\"']?)"
            r"[^\s\"',;&})]{4,}",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
)


def secret_values(names: Iterable[str] = ()) -> tuple[str, ...]:
    """The secrets in the environment, longest first. `names`: further variables, whatever their names."""
    named, found = set(names), set[str]()
    for name, value in os.environ.items():
        if name in named or KEY_LIKE.search(name):
            found.update((value, value.strip(), *(line for line in value.splitlines() if len(line) >= 16)))
        elif name.upper().endswith("_HEADERS"):  # such as OTEL_EXPORTER_OTLP_HEADERS: name=value,name=value
            found.update(part.partition("=")[2].strip() for part in value.split(","))
    return tuple(sorted((value for value in found if len(value) >= SHORTEST), key=lambda value: (-len(value), value)))


def redact(text: str, names: Iterable[str] = ()) -> str:
    """The text with every secret replaced by "(redacted)". `names`: the recipe's `api_key_env` names."""
    return _hide(text, secret_values(names))


def has_key(text: str) -> bool:
    """Return True if a part of a text has a key's shape; the environment does not count."""
    return _hide(text, ()) != text


def is_key(word: str) -> bool:
    """Return True if an id or a name is a key: by its shape, or by a run of letters and digits that no name has."""
    return has_key(word) and any(_DIGIT.search(run) for run in _RUN.findall(word))


def redact_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's plain data for storage: free text without keys, at every depth.

    Names, numbers and choices stay, and so do the seeds: they are data, not settings.
    """
    given = recipe.get("models")
    models = [one for one in given if isinstance(one, Mapping)] if isinstance(given, list | tuple) else []
    names = [str(name) for one in models for name in (one.get("api_key_env"), *_values(one.get("headers_env"))) if name]
    secrets = tuple(value for value in secret_values(names) if len(value) >= SHORTEST_IN_RECIPE)
    clean = {name: _prose(value, secrets) if name == "task" else value for name, value in recipe.items()}
    clean |= _prose({name: clean[name] for name in ("description", "licence") if name in clean}, secrets)
    if models:
        clean["models"] = [{name: _of_model(name, value, secrets) for name, value in one.items()} for one in models]
    return clean


def _of_model(name: str, value: Any, secrets: tuple[str, ...]) -> Any:
    """One field of a model for storage."""
    if name == "extra":
        return _value(value, secrets, DEEPEST)
    if name in ("base_url", "licence"):
        return _value(value, secrets, 0)
    if name == "headers_env" and isinstance(value, Mapping):
        return {header: _of_model("", variable, ()) for header, variable in value.items()}
    if not isinstance(value, str) or name == "name":
        return value
    return HIDDEN if is_key(value) or value in secrets else value


def _prose(value: Any, secrets: tuple[str, ...]) -> Any:
    """The value with keys removed from the texts, except under the names in NAMES."""
    if isinstance(value, Mapping):
        return {
            name: _hide(inner, secrets) if name not in NAMES and isinstance(inner, str) else _prose(inner, secrets)
            for name, inner in value.items()
        }
    return [_prose(inner, secrets) for inner in value] if isinstance(value, list | tuple) else value


def _values(mapping: object) -> Iterable[object]:
    return mapping.values() if isinstance(mapping, Mapping) else ()


def redact_fields(fields: Mapping[str, object], names: Iterable[str] = ()) -> dict[str, Any]:
    """The fields with secrets removed: whole if a name looks like a key's, inside texts elsewhere.

    Nested mappings and sequences are searched; other values than numbers, texts, None and booleans become text.
    """
    secrets = secret_values(names)
    return {_hide(str(name), secrets): _field(name, value, secrets, DEEPEST) for name, value in fields.items()}


def _field(name: object, value: object, secrets: tuple[str, ...], deepest: int) -> Any:
    if FIELD_LIKE.search(str(name)) and value is not None:
        return HIDDEN
    return _value(value, secrets, deepest)


def _value(value: object, secrets: tuple[str, ...], deepest: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return value if (text := str(value)) == _hide(text, secrets) else HIDDEN
    if isinstance(value, str):
        return _hide(value, secrets)
    if deepest <= 0:
        return HIDDEN
    if isinstance(value, Mapping):
        return {_hide(str(name), secrets): _field(name, inner, secrets, deepest - 1) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_value(inner, secrets, deepest - 1) for inner in value]
    return _hide(str(value), secrets)


def _hide(text: str, secrets: tuple[str, ...]) -> str:
    if secrets:
        escaped = "\\" in text or "%" in text or "+" in text  # in nothing else a character can be written otherwise
        text = _pattern(secrets, escaped).sub(HIDDEN, text)
    for shape, instead in _SHAPES:
        text = shape.sub(instead, text)
    return text


@lru_cache(maxsize=32)
def _pattern(secrets: tuple[str, ...], escaped: bool) -> re.Pattern[str]:
    """Matches each secret: literally, or (`escaped`) in any escaping of its characters."""
    if not escaped:
        return re.compile("|".join(map(re.escape, secrets)))
    firsts = sorted({secret[0] for secret in secrets})
    raw = "".join(re.escape(letter) + r"\+" * (letter == " ") for letter in firsts if letter != "\\")
    bytes_ = "|".join(f"{letter.encode('utf-8', 'surrogatepass')[0]:02x}" for letter in firsts)
    begins = rf"(?={f'[{raw}]|' * bool(raw)}%(?:25)*(?i:{bytes_})|(?<!\\)\\)"  # passes over most places at once
    return re.compile(begins + "(?:" + "|".join(map(_written, secrets)) + ")")


_RUNS = re.compile(r"(\\*)([^\\]|\Z)")


def _written(secret: str) -> str:
    """A pattern for a secret in any escaping of its characters.

    A run of backslashes is read once, whole, and never given back: every place in a long one may begin an escape, and
    what would be tried from each would take time by the square of its length.
    """
    pieces: list[str] = []
    for slashes, letter in _RUNS.findall(secret):
        plain = _letter(letter) if letter else ""
        if slashes:
            coded = [r"(?i:%(?:25)*5c)", *(rf"(?:\\++{code})" for code in _codes("\\"))]
            escapes = "|".join(f"{form}{{{len(slashes)}}}" for form in coded)
            bare = f"(?:{plain}|{'|'.join(_codes(letter))})" if letter else ""
            pieces.append(rf"(?:\\{{{len(slashes)},}}+{bare}|(?:{escapes}){plain})")
        else:
            pieces.append(plain)
    return "".join(pieces)


@lru_cache(maxsize=4096)
def _letter(letter: str) -> str:
    """A pattern for one character: raw, as URLs write it (also twice encoded), as JSON and repr escape it."""
    forms = [re.escape(letter)]
    forms.append("(?i:" + "".join(f"%(?:25)*{byte:02x}" for byte in letter.encode("utf-8", "surrogatepass")) + ")")
    escapes = _codes(letter) + ([re.escape(letter)] if letter in "\"'/" else [])
    forms.append(rf"\\++(?:{'|'.join(escapes)})")
    if letter == " ":
        forms.append(r"\+")
    return f"(?:{'|'.join(forms)})"


def _codes(letter: str) -> list[str]:
    """Patterns for the part after the backslashes in escapes of JSON, repr and the like."""
    code, units = ord(letter), letter.encode("utf-16-be", "surrogatepass")
    pairs = [units[place : place + 2].hex() for place in range(0, len(units), 2)]
    coded = [r"\\++".join(f"x{byte:02x}" for byte in letter.encode("utf-8", "surrogatepass"))]
    coded += [f"x{code:02x}"] if code < 256 else []
    coded += [r"\\++".join(f"u{pair}" for pair in pairs), f"u{code:08x}"]
    named = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f", "\a": "a", "\v": "v"}.get(letter)
    return [f"(?i:{form})" for form in coded] + ([named] if named else [])
