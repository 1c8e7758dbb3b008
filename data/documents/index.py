"""Find passages by a query: by their words (BM25) or by their meaning (sentence encoder)."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from graft.schemas.documents import UNSPACED, Passage
from graft.schemas.errors import MissingExtra

Embed = Callable[[Sequence[str]], Any]
"""Texts to an array (n x d) of L2-normalised rows."""
Search = Callable[[str, int], Sequence[Passage]]
"""(query, number) to at most so many passages, the best match first."""
LONGEST_QUERY = 2_000
"""Characters of a query that are read."""
TOGETHER = 256
"""Passages embedded at once."""
STEM = 5
"""First letters of a long word that are compared besides the word: strong stemming, the same for every language."""
STOP_WORDS: Mapping[str, str] = MappingProxyType({
    "en": "EN_PLUS", "de": "GERMAN", "nl": "DUTCH", "fr": "FRENCH", "es": "SPANISH",
    "pt": "PORTUGUESE", "it": "ITALIAN", "ru": "RUSSIAN", "sv": "SWEDISH", "no": "NORWEGIAN",
    "zh": "CHINESE", "tr": "TURKISH", "ko": "KOREAN", "da": "DANISH",
})  # fmt: skip
"""Language to the name of bm25s's list of its stop words."""
_WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")


class ByWords:
    """BM25 (Lucene's variant) over words and their first letters, without regard to case.

    Stop words of a query are left out if its language has a list of them. Passages that share no word with it are not
    found. The index is built by the first query, from any thread.
    """

    def __init__(self, passages: Sequence[Passage], language: str = "en") -> None:
        self._passages, self._language, self._lock = passages, language, threading.Lock()
        self._index: Any = None

    def __call__(self, query: str, most: int) -> Sequence[Passage]:
        """See Search. Raises MissingExtra without bm25s."""
        words = _WORD.findall(query[:LONGEST_QUERY].casefold())
        if not words or not self._passages:
            return []
        with self._lock:
            if self._index is None:
                self._index = _bm25([terms(_WORD.findall(passage.text.casefold())) for passage in self._passages])
        stop = _stop_words(self._language)
        wanted = terms([word for word in words if word not in stop] or words)
        return _best(self._passages, self._index.get_scores(wanted), most, above=0.0)


class ByMeaning:
    """Cosine of sentence vectors. `embed` runs once over all passages, then once a query."""

    def __init__(
        self, passages: Sequence[Passage], embed: Embed, say: Callable[[str], None] = lambda text: None
    ) -> None:
        self._passages, self._embed = passages, embed
        parts = []
        for begin in range(0, len(passages), TOGETHER):
            if begin:
                say(f"indexing passages {begin:,}/{len(passages):,}")
            parts.append(np.asarray(embed([one.text for one in passages[begin : begin + TOGETHER]]), dtype=np.float32))
        self._vectors = np.concatenate(parts) if parts else np.zeros((0, 1), dtype=np.float32)

    def __call__(self, query: str, most: int) -> Sequence[Passage]:
        """See Search."""
        if not query.strip() or not self._passages:
            return []
        (vector,) = np.asarray(self._embed([query[:LONGEST_QUERY]]), dtype=np.float32)
        return _best(self._passages, self._vectors @ vector, most)


def terms(words: Sequence[str]) -> list[str]:
    """What BM25 compares: each word, and for a long one its first letters, which its other forms share."""
    return [*words, *(f"{word[:STEM]}*" for word in words if len(word) > STEM)]


def _stop_words(language: str) -> frozenset[str]:
    """The words of a language that say nothing about a text's subject; none for languages without a list."""
    from bm25s import stopwords

    name = STOP_WORDS.get(language.partition("-")[0].casefold())
    return frozenset(getattr(stopwords, f"STOPWORDS_{name}", ())) if name else frozenset()


def _bm25(texts: list[list[str]]) -> Any:
    try:
        import bm25s
    except ImportError as error:
        what = "passages are found by bm25s, which is not installed"
        fix = "pip install 'graft-factory[documents]', or index: encoder"
        raise MissingExtra(what, where="seeds.documents.index", fix=fix) from error
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    index = bm25s.BM25()
    index.index(texts, show_progress=False)
    return index


def _best(passages: Sequence[Passage], scores: Any, most: int, above: float = -np.inf) -> list[Passage]:
    """The passages with the highest scores; of equal ones the earlier first."""
    order = np.argsort(-np.asarray(scores), kind="stable")[: max(0, most)]
    return [passages[place] for place in order if scores[place] > above]
