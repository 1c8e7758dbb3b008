"""A person's texts without labels: read from any file that an import reads, each text once."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from graft.data.gates.shared.folding import normalise
from graft.data.gates.shared.near import NearIndex
from graft.data.intake import columns, sources
from graft.data.intake.collect import MAX_CHARS, Checks, fields_of, wrong_text
from graft.data.intake.columns import Mapped
from graft.data.intake.parts import Problems, Source
from graft.schemas.errors import InputInvalid, Problem
from graft.schemas.rows import GivenText

NO_OTHERS = dict.fromkeys(("label", "response", "split", "id"), "")


@dataclass(frozen=True)
class Texts:
    """The texts of a source in its order, and what was left out.

    `counts` are `texts_read`, `texts_repeated` (equal or nearly equal to an earlier one) and `texts_unusable`.
    """

    rows: tuple[GivenText, ...]
    name: str
    column: str
    counts: dict[str, int]
    unusable: dict[str, int]


def open_texts(path: str | Path, column: str | None) -> tuple[Source, Mapped]:
    """The source, and its column of texts, detected unless given. Raises InputInvalid that lists the columns."""
    source = sources.find(str(path))
    try:
        given = {**NO_OTHERS, **({"text": column} if column else {})}
        return source, columns.guess(source, columns.sample(source), given)
    except InputInvalid as error:
        raise InputInvalid([_by_column(problem) for problem in error.problems]) from None


def digest_of(path: str | Path) -> str:
    """SHA-256 of the source's files. Raises InputInvalid if there is no such file."""
    source = sources.find(str(path))
    return sources.sha256(source.files)


def read_texts(path: str | Path, column: str | None, near: float) -> Texts:
    """The texts, each once: those at a Jaccard similarity of `near` or more to an earlier one are left out.

    Rows without a usable text are left out and counted. Raises InputInvalid if the source cannot be read.
    """
    source, mapped = open_texts(path, column)
    problems = Problems(skip=True)
    rows, counts = list[GivenText](), Counter(texts_read=0, texts_repeated=0, texts_unusable=0)
    seen, index = set[bytes](), NearIndex(near)
    for part in source.parts:
        name = Path(part.file.partition("#")[0]).name
        for line, record in part.records(problems, mapped.columns):
            counts["texts_read"] += 1
            found = fields_of(record, mapped)
            wrong = wrong_text(found, mapped, Checks(max_chars=MAX_CHARS))
            if wrong:
                problems.row(part.file, line, *wrong)
                continue
            text = found[0].strip()
            key = hashlib.blake2b(normalise(text).encode("utf-8", "surrogatepass"), digest_size=16).digest()
            if key in seen or index.find(text)[0]:
                counts["texts_repeated"] += 1
                continue
            seen.add(key)
            rows.append(GivenText.of(text, name, max(1, line)))
            index.add(rows[-1].id, text)
    problems.finish()
    counts["texts_unusable"] = sum(problems.skipped.values())
    return Texts(tuple(rows), source.name, "+".join(mapped.text) or (mapped.chat or ""), dict(counts), problems.skipped)


def _by_column(problem: Problem) -> Problem:
    return replace(problem, fix=problem.fix.replace("--map text=COLUMN", "text_column (graft label --column)"))
