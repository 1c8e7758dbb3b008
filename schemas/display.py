"""A row as it is shown: parts of plain text with marked pieces, independent of where it is shown.

A task makes the view of a row (`Task.view`). Every text in it is plain text that the renderer escapes.

Renderers, one for each surface:

- terminal: `cli.show.view_text`
- card (Markdown), diff, CSV: `plain`
- dashboard page: macro `view` in `dashboard/templates/macros.html.jinja`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

Tone = Literal["text", "response", "aside", "turn", "call"]
"""How a page sets a part apart: the text, an answer, something beside both, a turn or a call of a conversation."""


@dataclass(frozen=True)
class Piece:
    """A run of text. `mark` names the kind of span that it is; empty for plain text."""

    text: str
    mark: str = ""


@dataclass(frozen=True)
class Part:
    """One part of a row, such as its text, an answer or a turn. `title` is a word or two; empty for the text itself."""

    pieces: tuple[Piece, ...]
    title: str = ""
    tone: Tone = "text"

    @property
    def text(self) -> str:
        """The words, without marks."""
        return "".join(piece.text for piece in self.pieces)


View = tuple[Part, ...]


def part(text: str, title: str = "", tone: Tone = "text") -> Part:
    """A part without marks."""
    return Part((Piece(text),), title, tone)


def marked(text: str, spans: Sequence[Mapping[str, Any]]) -> tuple[Piece, ...]:
    """The text cut at the bounds of its spans; where spans overlap, the mark names all of them.

    Spans without sound offsets are left out: a view never raises.
    """
    sound = [
        (start, end, str(span.get("type", "")))
        for span in spans
        if isinstance(start := span.get("start"), int) and isinstance(end := span.get("end"), int)
        and 0 <= start < end <= len(text)
    ]  # fmt: skip
    cuts = sorted({0, len(text), *(place for start, end, _ in sound for place in (start, end))})
    return tuple(
        Piece(text[a:b], " + ".join(kind for start, end, kind in sound if start <= a and b <= end))
        for a, b in pairwise(cuts)
    )


def as_data(view: View) -> list[dict[str, Any]]:
    """The view as plain values."""
    return [asdict(one) | {"pieces": [asdict(piece) for piece in one.pieces]} for one in view]


def of_data(data: Sequence[Mapping[str, Any]]) -> View:
    """The view that `as_data` wrote."""
    return tuple(Part(**{**one, "pieces": tuple(Piece(**piece) for piece in one["pieces"])}) for one in data)


def cut(view: View, limit: int) -> View:
    """The first parts, `limit` characters in all, with an ellipsis where words are left out."""
    made: list[Part] = []
    left = limit
    for one in view:
        pieces: list[Piece] = []
        for piece in one.pieces:
            if left > 0:
                whole = len(piece.text) <= left
                pieces.append(piece if whole else Piece(piece.text[:left] + "…", piece.mark))
            left -= len(piece.text)
        made.append(Part(tuple(pieces), one.title, one.tone))
        if left <= 0:
            break
    return tuple(made)


def plain(view: View, limit: int | None = None) -> str:
    """The view as one text: `title: words`, marked pieces as `[words](mark)`. Cut at `limit` characters."""
    lines = []
    for one in view:
        words = "".join(f"[{piece.text}]({piece.mark})" if piece.mark else piece.text for piece in one.pieces)
        lines.append(f"{one.title}: {words}" if one.title else words)
    text = "\n".join(lines)
    return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"
