"""Read a recipe's documents: every file once, its text without markup, all problems at once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from graft.data.documents import chunk, formats
from graft.data.intake.limits import readable
from graft.data.intake.parts import MAX_PROBLEMS
from graft.schemas.base import stable_hash
from graft.schemas.documents import Document, DocumentSettings, Passage
from graft.schemas.errors import InputInvalid, Problem
from graft.schemas.problems import did_you_mean

MAX_FILE_BYTES = 100_000_000
MAX_FILES = 50_000
MAX_CHARS = 200_000_000
"""Most characters of all documents together: they are held in memory."""
FIELD = "seeds.documents"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Library:
    """The documents of a recipe and their passages, both in the order of the documents' names; empty if it has none.

    `notices` are sentences about files that were left out or read by a guess.
    """

    documents: tuple[Document, ...] = ()
    passages: tuple[Passage, ...] = ()
    settings: DocumentSettings = field(default_factory=lambda: DocumentSettings(path=""))
    notices: tuple[str, ...] = ()

    @cached_property
    def by_id(self) -> dict[str, Passage]:
        """The passages by id."""
        return {passage.id: passage for passage in self.passages}

    @cached_property
    def texts(self) -> dict[str, str]:
        """The documents' texts by hash."""
        return {one.hash: one.text for one in self.documents}

    @property
    def digest(self) -> str:
        """Hash of everything that a run takes from the documents, for its id."""
        return stable_hash(chunk.VERSION, [(one.name, one.hash) for one in self.documents])

    @property
    def summary(self) -> str:
        """The documents and passages in one line."""
        count, passages, settings = len(self.documents), len(self.passages), self.settings.chunk
        characters = sum(len(one.text) for one in self.documents)
        named = ", ".join(one.name for one in self.documents[:3]) + (", …" if count > 3 else "")
        return (
            f"{count:,} document{'s' * (count != 1)} ({named}), {characters:,} characters: {passages:,} "
            f"passage{'s' * (passages != 1)} of {settings.words:,} words at most, {settings.overlap:,} of them repeated"
        )


def read_documents(
    settings: DocumentSettings, folder: Path, say: Say = lambda text: None, cache: Path | None = None
) -> Library:
    """The documents that a recipe names, relative to its `folder`; unchanged files are read once a process.

    Args:
        settings: the recipe's
        folder: the recipe's
        say: reports progress
        cache: folder that keeps the texts of files that take long to read; None: none

    Raises:
        InputInvalid: naming every file that cannot be read, and the fix.
    """
    found = [file for given in settings.paths for file in _files(settings, folder, given)]
    problems = [one for one in found if isinstance(one, Problem)]
    if len(found) > MAX_FILES:
        what = f"{len(found):,} files, at most {MAX_FILES:,} are read"
        problems.append(Problem(", ".join(settings.paths), None, FIELD, what, f"narrow {FIELD}.glob"))
    if problems:
        raise InputInvalid(listed(problems))
    return _read(settings, tuple(one for one in found if isinstance(one, _File)), _Aside(say, cache))


def listed(problems: Sequence[Problem]) -> list[Problem]:
    """The first problems, and how many more there are."""
    more = len(problems) - MAX_PROBLEMS
    last = [Problem(problems[-1].file, None, "", f"and {more} more problems", "correct those above first")]
    return [*problems[:MAX_PROBLEMS], *(last if more > 0 else [])]


class _File(NamedTuple):
    """A file to read. `named`: the recipe names it itself, not its folder; `stamp` changes if it is written again."""

    name: str
    file: str
    path: str
    named: bool
    stamp: tuple[int, int]


class _Aside(NamedTuple):
    """Inputs that do not change the result: all are equal, so that they are no part of a cache's key."""

    say: Say
    cache: Path | None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Aside)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=2)
def _read(settings: DocumentSettings, files: tuple[_File, ...], aside: _Aside) -> Library:
    problems, skipped, notices = list[Problem](), Counter[str](), list[str]()
    documents, passages, names, room = list[Document](), list[Passage](), dict[str, str](), MAX_CHARS
    for number, file in enumerate(files):
        if number and number % 10 == 0:
            aside.say(f"reading documents {number:,}/{len(files):,}")
        said = list[str]()
        try:
            text = formats.kept_text(Path(file.path), settings.encoding, said, aside.cache)
            notices += [f"{file.name} {clause}" for clause in said]
            document = Document.of(file.name, file.file, text, settings.licence)
            cut = chunk.passages(document, settings.chunk)
            if not cut:
                raise formats.LeftOut("empty")
        except formats.LeftOut as out:
            if file.named:
                problems.append(Problem(file.path, None, FIELD, *out.problem))
            skipped[out.kind] += 1
            continue
        except InputInvalid as error:
            problems += error.problems
            continue
        if document.hash in names:
            notices.append(f"{file.name} has the text of {names[document.hash]}: read once")
            continue
        names[document.hash] = file.name
        room -= len(text)
        if room < 0:
            fix = f"narrow {FIELD}.glob, or split the recipe"
            problems.append(Problem(file.path, None, FIELD, f"documents have over {MAX_CHARS:,} characters", fix))
            break
        documents.append(document)
        passages += cut
    left_out = [f"{count:,} {kind}" for kind, count in sorted(skipped.items())]
    if not documents and not problems:
        what = f"none of {len(files):,} files is a document ({', '.join(left_out)})"
        fix = f"name text, Markdown, HTML or PDF in {FIELD}.path"
        problems.append(Problem(", ".join(settings.paths), None, FIELD, what, fix))
    if problems:
        raise InputInvalid(listed(problems))
    if left_out:
        notices.append(f"{skipped.total():,} of {len(files):,} files are no documents: {', '.join(left_out)}")
    return Library(tuple(documents), tuple(passages), settings, tuple(notices))


def _files(settings: DocumentSettings, folder: Path, given: str) -> Iterator[_File | Problem]:
    """The files of one path of the recipe, in the order of their names, and problems."""
    path = folder / Path(given).expanduser()
    if path.is_file():
        yield _checked(path, path.name, given, named=True)
        return
    if not path.is_dir():
        beside = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
        what = f"no file or folder {given!r} beside the recipe"
        fix = f"that folder has: {', '.join(beside[:8])}" if beside else f"{path.parent} has no such file"
        yield Problem(str(folder), None, FIELD, what, did_you_mean(path.name, beside) + fix)
        return
    root, seen = path.resolve(), list[str]()
    prefix = f"{path.name}/" if len(settings.paths) > 1 else ""
    below, wanted = _entries(path, deep="/" in settings.glob), PurePosixPath(settings.glob).parts
    matched = False
    for name in below:
        seen.append(name)
        if not _matches(PurePosixPath(name).parts, wanted) and not (path / name).is_dir():
            continue
        target = (path / name).resolve()
        if not target.is_relative_to(root) or not target.exists():
            matched = True
            what = f"links to {target}, outside of {given}" if target.exists() else "is a link that leads nowhere"
            fix = "copy the file into the folder, or remove the link"
            yield Problem(str(path / name), None, FIELD, what, fix)
        elif (path / name).is_file():
            matched = True
            yield _checked(path / name, prefix + name, f"{given.rstrip('/')}/{name}", named=False)
    if not matched:
        what = f"no file matches {settings.glob!r}" if seen else "the folder is empty"
        fix = f"the folder has: {', '.join(seen[:8])}" if seen else "put text, Markdown, HTML or PDF files there"
        yield Problem(str(path), None, f"{FIELD}.glob" if seen else FIELD, what, fix)


def _checked(path: Path, name: str, file: str, *, named: bool) -> _File | Problem:
    """The file, or the problem that it is too large; nothing is read."""
    status = path.stat()
    if status.st_size > MAX_FILE_BYTES:
        what = f"has {readable(status.st_size)}, at most {readable(MAX_FILE_BYTES)} are read"
        return Problem(str(path), None, FIELD, what, f"split the file, or leave it out by {FIELD}.glob")
    return _File(name, file, str(path), named, (status.st_size, status.st_mtime_ns))


def _entries(folder: Path, *, deep: bool) -> Iterator[str]:
    """The files below a folder, and links to folders (which are not followed), without hidden ones, in order."""
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if deep else []
        links = [name for name in folders if (Path(here) / name).is_symlink()]
        for name in sorted([*files, *links]):
            if not name.startswith("."):
                yield (Path(here) / name).relative_to(folder).as_posix()


def _matches(parts: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    """Return True if a path matches a pattern; `**` stands for any number of folders."""
    if not wanted:
        return not parts
    if wanted[0] == "**":
        return any(_matches(parts[place:], wanted[1:] or ("*",)) for place in range(len(parts)))
    return bool(parts) and fnmatchcase(parts[0], wanted[0]) and _matches(parts[1:], wanted[1:])
