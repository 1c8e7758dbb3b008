"""Find passages by a query: by their words (BM25) or by their meaning (sentence encoder)."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Sequence
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
_TERM = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")


class ByWords:
    """BM25 (Lucene's variant) over words without regard to case; passages that share no word are not found.

    It is built by the first query, from any thread.
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages, self._lock = passages, threading.Lock()
        self._index: Any = None

    def __call__(self, query: str, most: int) -> Sequence[Passage]:
        """See Search. Raises MissingExtra without bm25s."""
        wanted = terms(query[:LONGEST_QUERY])
        if not wanted or not self._passages:
            return []
        with self._lock:
            if self._index is None:
                self._index = _bm25([terms(passage.text) for passage in self._passages])
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


def terms(text: str) -> list[str]:
    """The words of a text as BM25 compares them."""
    return _TERM.findall(text.casefold())


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
