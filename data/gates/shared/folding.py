"""Folds texts for comparison: words without case, punctuation and Unicode forms."""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(r"[^\W_]+")
_UNSPACED = re.compile(r"([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")
_APOSTROPHES = re.compile(r"(?<=\w)['’ʼ`](?=\w)")


def words(text: str) -> list[str]:
    """The text's words, folded: NFKC, no case, no punctuation, apostrophes closed (don't = dont).

    A letter of a script that is written without spaces (Chinese, Japanese, Thai and others) is a word of its own.
    """
    if text.isascii():
        return _WORD.findall(_APOSTROPHES.sub("", text.lower()))
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return _WORD.findall(_UNSPACED.sub(r" \1 ", _APOSTROPHES.sub("", folded)))


def normalise(text: str) -> str:
    """The text as `words` folds it, in one line; a text without words keeps its characters."""
    return " ".join(words(text)) or "".join(text.split())
