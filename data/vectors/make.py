"""Embeds a version block by block into a temporary file, which is renamed when it is complete."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graft.data.vectors.chosen import Chosen, chosen
from graft.data.vectors.model import PLACED, About, Embed, Kind, shares
from graft.data.vectors.project import project
from graft.data.vectors.store import ABOUT, RULE, Vectors, find, key_of, path_of
from graft.schemas.durable import put
from graft.schemas.errors import NO_SPACE, GraftError, StorageFull

if TYPE_CHECKING:
    import pyarrow as pa

    from graft.data.lake import Lake
    from graft.schemas.datasets import DatasetVersion
    from graft.schemas.home import Home

LIMIT = 20_000
"""Default maximum of embedded rows: a minute or two on two cores."""
BLOCK = 16_384
"""Rows per block of the file: 12 MB at 384 dimensions."""
BATCH = 512
"""Texts passed to the encoder at a time."""

Say = Callable[[int, int], None]
Halves = NDArray[np.float16]


def build(
    home: Home,
    lake: Lake,
    found: DatasetVersion,
    embed: Embed,
    *,
    encoder: str,
    limit: int | None = LIMIT,
    say: Say = lambda done, total: None,
) -> Vectors:
    """Return the embeddings of a version, computing them if they are not on disk.

    Text and response are embedded together, equal texts once. One process makes a file while others wait for it.

    Args:
        home: The home whose `vectors` folder holds the files.
        lake: The lake.
        found: The version.
        embed: Maps texts to an array of shape (texts, dimensions).
        encoder: The encoder's name, which identifies the file.
        limit: Maximum rows, and maximum seeds (None: all), sampled by the hash of their ids. A file on disk with as
            many rows is kept.
        say: Receives (done, total) rows and seeds.

    Raises:
        NotFound: The version no longer exists.
        GraftError: The encoder returns an array of the wrong shape or non-finite numbers.
        StorageFull: The disk is full.
    """
    from filelock import FileLock

    if limit is not None and limit < 1:
        raise ValueError("limit is 1 or more")
    target = path_of(home, found, encoder)
    try:
        home.vectors.mkdir(parents=True, exist_ok=True)
        with FileLock(home.vectors / f".{target.stem}.lock", thread_local=False):
            there = find(home, found, encoder)
            if there is None or there.rows < min(there.about.of_rows, limit or there.about.of_rows):
                _make(target, lake, found, _Encoder(embed, encoder, say), limit)
                there = find(home, found, encoder)
    except OSError as error:
        if error.errno in NO_SPACE:
            fix = "free some space and run again"
            raise StorageFull("no space left for the embeddings", where=str(home.vectors), fix=fix) from error
        raise GraftError(f"the embeddings cannot be kept: {error.strerror}", where=str(home.vectors)) from error
    if there is None:
        raise GraftError(
            "the embeddings were deleted while they were being made", where=str(target), fix="run it again"
        )
    return there


class _Encoder:
    """Wraps an embedding function: returns unit vectors, embeds repeated texts once, reports progress."""

    def __init__(self, embed: Embed, name: str, say: Say) -> None:
        self.name, self._embed, self._say = name, embed, say
        self._known: dict[str, Halves] = {}
        self._wide, self._done, self._total = 0, 0, 0

    def expect(self, total: int) -> None:
        """Announce the number of texts, including repeated ones."""
        self._total = total
        self._say(0, total)

    def of(self, block: pa.Table) -> Halves:
        """Return a block's unit vectors, of shape (n, d)."""
        texts, again = block.column("content").to_pylist(), block.column("again").to_pylist()
        count = Counter(texts)
        fresh = sorted((text for text in count if text not in self._known), key=lambda text: (len(text), text))
        made = {text: self._known[text] for text in count if text in self._known}
        self._tell(sum(count[text] for text in made))
        for start in range(0, len(fresh), BATCH):
            some = fresh[start : start + BATCH]
            made |= dict(zip(some, self._units(some), strict=True))
            self._tell(sum(count[text] for text in some))
        self._known |= {text: made[text] for text, several in zip(texts, again, strict=True) if several}
        return np.stack([made[text] for text in texts])

    def _tell(self, more: int) -> None:
        if more:
            self._done += more
            self._say(self._done, self._total)

    def _units(self, texts: list[str]) -> Halves:
        raw = np.asarray(self._embed(texts), dtype=np.float32)
        self._wide = self._wide or (raw.shape[1] if raw.ndim == 2 else 0)
        if raw.shape != (len(texts), self._wide) or not self._wide:
            what = f"the encoder {self.name} returned an array of shape {raw.shape} for {len(texts)} texts"
            raise GraftError(
                what, where=self.name, fix="an encoder must return one vector per text, all of the same length"
            )
        if not np.isfinite(raw).all():
            what = f"the encoder {self.name} returned a vector that is not finite (NaN or infinite)"
            raise GraftError(what, where=self.name, fix="nothing was kept: use another encoder, or reinstall it")
        return np.asarray(raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-12), dtype=np.float16)


def _make(target: Path, lake: Lake, found: DatasetVersion, encoder: _Encoder, limit: int | None) -> None:
    """Write the file atomically; delete leftovers of killed processes and clusters of an older file."""
    for name in (f".{target.stem}.*.part", f"{target.stem}.clusters-*"):
        for path in target.parent.glob(name.replace("[", "[[]")):
            path.unlink(missing_ok=True)
    part = target.with_name(f".{target.stem}.{uuid.uuid4().hex}.part")
    try:
        with chosen(lake, found, limit) as picked:
            encoder.expect(picked.count["row"] + picked.count["seed"])
            _write(part, found, picked, encoder)
        put(part, target)
    finally:
        part.unlink(missing_ok=True)


def _write(part: Path, found: DatasetVersion, picked: Chosen, encoder: _Encoder) -> None:
    """Write the points of the map first, then the rest block by block."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    seeds, rows = picked.count["seed"], picked.count["row"]
    some_seeds, some_rows = shares(seeds, rows, PLACED)
    first = pa.concat_tables(
        [_of_kind(picked, "seed", 0, some_seeds), _of_kind(picked, "row", 0, some_rows)], promote_options="default"
    )
    vectors = encoder.of(first)
    places, how = project(vectors.astype(np.float32))
    about = About(
        rule=RULE, key=key_of(found), dataset=found.dataset, version=found.version, encoder=encoder.name,
        of_rows=found.rows, rows=rows, seeds=seeds, placed=len(vectors), dimensions=vectors.shape[1], projection=how,
    )  # fmt: skip
    schema = _schema(about)
    with pq.ParquetWriter(
        part, schema, compression={"id": "zstd", "vector": "none"}, use_dictionary=["kind"], write_page_checksum=True,
    ) as out:  # fmt: skip
        out.write_table(_table(schema, first, vectors, places), row_group_size=BLOCK)
        for block in _rest(picked, some_seeds, some_rows):
            out.write_table(_table(schema, block, encoder.of(block), None), row_group_size=BLOCK)


def _rest(picked: Chosen, seeds: int, rows: int) -> Iterator[pa.Table]:
    starts: dict[Kind, int] = {"seed": seeds, "row": rows}
    for kind, begin in starts.items():
        for start in range(begin, picked.count[kind], BLOCK):
            yield _of_kind(picked, kind, start, min(start + BLOCK, picked.count[kind]))


def _of_kind(picked: Chosen, kind: Kind, start: int, end: int) -> pa.Table:
    import pyarrow as pa

    block = picked.block(kind, start, end)
    return block.append_column("kind", pa.array([kind] * block.num_rows, pa.string()))


def _schema(about: About) -> pa.Schema:
    import pyarrow as pa

    kinds: list[tuple[str, Any]] = [
        ("id", pa.string()), ("kind", pa.string()), ("restricted", pa.bool_()),
        ("vector", pa.binary(2 * about.dimensions)), ("x", pa.float32()), ("y", pa.float32()),
    ]  # fmt: skip
    return pa.schema(kinds, metadata={ABOUT: about.model_dump_json()})


def _table(schema: pa.Schema, block: pa.Table, vectors: Halves, places: NDArray[np.float32] | None) -> pa.Table:
    import pyarrow as pa

    count = len(vectors)
    numbers = pa.py_buffer(np.ascontiguousarray(vectors, dtype="<f2").tobytes())
    column = pa.FixedSizeBinaryArray.from_buffers(schema.field("vector").type, count, [None, numbers])
    xy = [pa.nulls(count, pa.float32())] * 2 if places is None else [pa.array(places[:, side]) for side in (0, 1)]
    held = [block.column(name).combine_chunks() for name in ("id", "kind", "restricted")]
    return pa.Table.from_arrays([*held, column, *xy], schema=schema)
