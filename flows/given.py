"""Files that rows come from: texts that a method labels, read and chosen once a run, and documents."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from graft.agents.local import encoder
from graft.agents.methods import Retrieve, TextSource, method_of
from graft.data.documents.index import ByMeaning, ByWords
from graft.data.documents.kept import keep_documents
from graft.data.documents.read import Library, read_documents
from graft.data.intake.texts import digest_of, open_texts, read_texts
from graft.schemas.errors import InputInvalid, MissingExtra, Problem
from graft.schemas.home import Home
from graft.schemas.load import resolve_path
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GivenText

if TYPE_CHECKING:
    from graft.data.lake import Lake

T = TypeVar("T")

CHOSEN = "texts.json"
"""File in a run's folder with the ids of its texts, in their order."""
COMPARED = 20_000
"""Texts among which a representative choice is made: a vector takes about 12 ms of CPU."""
TOGETHER = 512
"""Texts embedded between two lines of progress."""


@dataclass(frozen=True)
class Given:
    """A run's texts in the order in which they are labelled, and counts for the run's record."""

    rows: tuple[GivenText, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)


def check_source(recipe: Recipe, file: Path) -> None:
    """Raises InputInvalid if the method's file of texts is absent, or its column of texts is."""
    source = method_of(recipe).source(recipe)
    if source is not None:
        _of_recipe(source, file, lambda path: open_texts(path, source.column))


def digests(recipe: Recipe, file: Path) -> tuple[str, ...]:
    """The hashes of the method's file of texts and of the documents: parts of the run's id; empty if it has neither."""
    source, library = method_of(recipe).source(recipe), library_of(recipe, file)
    texts = () if source is None else (_of_recipe(source, file, digest_of),)
    return (*texts, *((library.digest,) if library.documents else ()))


def library_of(recipe: Recipe, file: Path, say: Callable[[str], None] = lambda text: None) -> Library:
    """The recipe's documents and passages, read once a process; empty if it has none. Raises InputInvalid."""
    settings = recipe.seeds.documents
    if settings is None:
        return Library()
    home = Home.find(create=False)
    return read_documents(settings, file.resolve().parent, say, home.documents if home.root.exists() else None)


def open_library(
    recipe: Recipe, file: Path, lake: Lake, run_id: str, say: Callable[[str], None]
) -> tuple[Library, Retrieve | None]:
    """The recipe's documents, recorded in the lake for the run, and the function that finds passages in them.

    Raises MissingExtra for `index: encoder` if the encoder is not installed.
    """
    library = library_of(recipe, file, say)
    if not library.documents:
        return library, None
    keep_documents(lake, run_id, library)
    for line in (library.summary, *library.notices):
        say(line)
    if library.settings.index == "none":
        return library, None
    if library.settings.index == "bm25":
        return library, ByWords(library.passages, recipe.task.language)
    embed, why = encoder.find_embed()
    if embed is None:
        what = f"passages cannot be found by meaning: {why}"
        raise MissingExtra(
            what, where="seeds.documents.index", fix="pip install 'graft-factory[local]', or index: bm25"
        )
    return library, ByMeaning(library.passages, embed, say)


def read_given(
    recipe: Recipe, file: Path, folder: Path | None = None, say: Callable[[str], None] = lambda text: None
) -> Given:
    """The texts that the recipe labels; none if its method writes all rows.

    Of more texts than `most` a representative choice is taken, or a random one without the encoder. It is kept in
    `folder`, the run's, so that a later start needs no vectors; without a folder the choice is the first ones. A source
    with batches gets all texts: `flows.batches` chooses among them.
    """
    source = method_of(recipe).source(recipe)
    if source is None:
        return Given()
    found = _of_recipe(source, file, lambda path: read_texts(path, source.column, recipe.gates.near_duplicate))
    for name in ("repeated", "unusable"):
        if count := found.counts[f"texts_{name}"]:
            say(f"{count:,} of {found.counts['texts_read']:,} texts are {name}: left out")
    if source.batches or source.most is None or source.most >= len(found.rows):
        return Given(found.rows, found.counts)
    if not source.spread or folder is None:
        return Given(found.rows[: source.most], found.counts)
    return Given(_chosen(found.rows, source.most, recipe.seed, folder / CHOSEN, say), found.counts)


def _chosen(
    rows: Sequence[GivenText], most: int, seed: int, memory: Path, say: Callable[[str], None]
) -> tuple[GivenText, ...]:
    by_id = {row.id: row for row in rows}
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads(memory.read_text(encoding="utf-8"))
        if isinstance(kept, list) and len(kept) == most and all(name in by_id for name in kept):
            return tuple(by_id[name] for name in kept)
    say(f"choosing {most:,} of {len(rows):,} texts")
    embed, why = encoder.find_embed()
    if embed is None:
        say(f"the texts are chosen at random: {why}")
        chosen = sorted(random.Random(f"texts-{seed}").sample(range(len(rows)), most))
    else:
        chosen = _spread(rows, most, seed, embed, say)
    picked = tuple(rows[place] for place in chosen)
    keep(memory, [row.id for row in picked])
    return picked


def keep(memory: Path, chosen: Sequence[Any]) -> None:
    """Write the ids of chosen texts to a run's file, atomically."""
    memory.parent.mkdir(parents=True, exist_ok=True)
    beside = memory.with_suffix(".tmp")
    beside.write_text(json.dumps(chosen), encoding="utf-8")
    beside.replace(memory)


def _spread(
    rows: Sequence[GivenText], most: int, seed: int, embed: encoder.Embed, say: Callable[[str], None]
) -> list[int]:
    """The places of a representative choice; of many texts it is made among a random sample."""
    import numpy as np

    from graft.data.vectors.spread import spread

    size = min(len(rows), max(COMPARED, most))
    among = sorted(random.Random(f"compared-{seed}").sample(range(len(rows)), size))
    vectors = []
    for begin in range(0, size, TOGETHER):
        vectors.append(embed([rows[place].text for place in among[begin : begin + TOGETHER]]))
        if begin + TOGETHER < size:
            say(f"choosing {most:,} of {len(rows):,} texts: {begin + TOGETHER:,} of {size:,} compared")
    return [among[place] for place in spread(np.concatenate(vectors), most, seed)]


def _of_recipe(source: TextSource, file: Path, read: Callable[[Path], T]) -> T:
    """The result of `read` on the source's path; its problems name the recipe's field as well."""
    try:
        return read(resolve_path(file, source.path))
    except InputInvalid as error:
        raise InputInvalid([_with_field(problem, source) for problem in error.problems]) from None


def _with_field(problem: Problem, source: TextSource) -> Problem:
    return Problem(problem.file, problem.line, problem.field or source.field, problem.what, problem.fix)
