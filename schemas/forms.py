"""A row's columns as text that a person edits by keyboard, and the way back.

A list of longer texts is written as blocks: a line `>>> head`, then the block's words. A line of the words that looks
like a head begins with a backslash.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

HEAD = ">>> "
_ESCAPED = re.compile(r"^(\\*)>>> ", re.MULTILINE)


@dataclass(frozen=True)
class FormField:
    """One column as a person edits it.

    Args:
        name: of the column in `data`
        title: for people
        value: the column as text
        hint: how it is written, in a line
    """

    name: str
    title: str
    value: str
    hint: str = ""


def to_blocks(blocks: Iterable[tuple[str, str]]) -> str:
    """The text of (head, words) blocks."""
    return "\n".join(f"{HEAD}{head}\n{_ESCAPED.sub(lambda hit: chr(92) + hit[0], words)}" for head, words in blocks)


def from_blocks(text: str) -> list[tuple[str, str]]:
    """The (head, words) blocks of a text; words before the first head have an empty head."""
    found: list[tuple[str, list[str]]] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        if line.startswith(HEAD):
            found.append((line.removeprefix(HEAD).strip(), []))
        elif found or line.strip():
            if not found:
                found.append(("", []))
            found[-1][1].append(line[1:] if line.startswith("\\") and line.lstrip("\\").startswith(HEAD) else line)
    return [(head, "\n".join(lines).strip("\n")) for head, lines in found]


def quoted(word: str) -> str:
    """The word for a line `type: words @ start {more}`: as JSON where a bare one would be read otherwise."""
    odd = not word or word != word.strip() or word[0] == '"' or any(part in word for part in ("\n", "\r", ": ", "{"))
    return json.dumps(word, ensure_ascii=False) if odd or re.search(r" @\d", word) else word


def unquoted(line: str, stop: re.Pattern[str]) -> tuple[str, str]:
    """The first word of a line, up to `stop` where it is bare, and the rest. Raises ValueError for broken quotes."""
    line = line.strip()
    if line.startswith('"'):
        word, end = json.JSONDecoder().raw_decode(line)
        return str(word), line[end:]
    hit = stop.search(line)
    place = hit.start() if hit else len(line)
    return line[:place].strip(), line[place:]
