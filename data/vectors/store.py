"""A version's embeddings on disk: one Parquet file per version and encoder, read block by block.

`vector` is fixed-width binary of little-endian float16, which is read ten times as fast as a list (docs/map.md). Seeds
and rows are ordered by the hash of their ids; those with a position on the map come first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graft.data.vectors.model import About, Kind, Near, Point, Projection, shares
from graft.schemas.base import SLUG_PATTERN, stable_hash
from graft.schemas.errors import GraftError, NotFound

if TYPE_CHECKING:
    import pyarrow as pa

    from graft.schemas.datasets import DatasetVersion
    from graft.schemas.home import Home

RULE = 1
"""Incremented when the embedded text or the file format changes: files of another rule are made again."""
ABOUT = b"graft"
COLUMNS = ("id", "kind", "restricted", "vector", "x", "y")
DIGITS = 4
"""Decimal places of a cosine; float16 has no more."""
AT_ONCE = 512

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Vectors:
    """The embeddings of a version's rows and of its runs' seeds. Each query reads the file; nothing is cached."""

    path: Path
    about: About

    @property
    def encoder(self) -> str:
        """The encoder's name."""
        return self.about.encoder

    @property
    def projection(self) -> Projection:
        """The projection of the map."""
        return self.about.projection

    @property
    def rows(self) -> int:
        """Number of embedded rows."""
        return self.about.rows

    @property
    def seeds(self) -> int:
        """Number of embedded seeds that are not rows of the version."""
        return self.about.seeds

    @property
    def whole(self) -> bool:
        """True if every row of the version is embedded."""
        return self.about.rows >= self.about.of_rows

    def points(self, sample: int = 4_000) -> list[Point]:
        """Return at most `sample` points of the map, seeds first, then rows by the hash of their ids."""
        left, found = self.about.placed, list[Point]()
        for group in self._groups("id", "kind", "x", "y"):
            found += [Point.model_construct(**row) for row in group.slice(0, left).to_pylist()]
            left -= group.num_rows
            if left <= 0:
                break
        seeds = sum(point.kind == "seed" for point in found)
        some_seeds, some_rows = shares(seeds, len(found) - seeds, sample)
        return found[:some_seeds] + found[seeds : seeds + some_rows]

    def nearest(self, row_id: str, count: int = 10) -> list[Near]:
        """Return the `count` rows and seeds nearest to another row or seed, nearest first, excluding itself.

        Restricted rows are included, by id only. Raises NotFound if the id was not embedded.
        """
        near = self._top(self.vector(row_id), count + 1, restricted=True)
        return [one for one in near if one.id != row_id][:count]

    def search(self, vector: Sequence[float] | Matrix, count: int = 50, *, restricted: bool = False) -> list[Near]:
        """Return the `count` rows and seeds nearest to a vector, nearest first.

        Args:
            vector: Query vector of the encoder's dimensions, of any length but 0.
            count: Maximum number of hits.
            restricted: Include restricted rows, whose content a hit would reveal.

        Raises:
            GraftError: The vector has other dimensions, is zero, or is not finite.
        """
        wanted = np.asarray(vector, dtype=np.float32).reshape(-1)
        length = float(np.linalg.norm(wanted))
        if len(wanted) != self.about.dimensions or not np.isfinite(length) or length == 0:
            what = (
                f"cannot search by these {len(wanted)} numbers: {self.about.dimensions} are required, finite, not all 0"
            )
            raise GraftError(what, where=self.encoder, fix=f"embed the words with {self.encoder}")
        return self._top(wanted / np.float32(length), count, restricted=restricted)

    def vector(self, row_id: str) -> Matrix:
        """Return the unit vector of a row or seed, of shape (d,). Raises NotFound if the id was not embedded."""
        for group in self._groups("id", "vector"):
            place = group.column("id").combine_chunks().index(row_id).as_py()
            if place >= 0:
                return self._numbers(group.slice(place, 1)).reshape(-1)
        fix = "" if self.whole else f"embed every row: graft map {self.about.dataset}@{self.about.version} --all"
        raise NotFound(f"{row_id} is not among the {self.rows:,} embedded rows", where="vectors", fix=fix)

    def matrix(self, kind: Kind = "row", most: int | None = None) -> tuple[list[str], Matrix]:
        """Return (ids, float32 array of shape (n, d)) of the first `most` rows or seeds by the hash of their ids.

        1M rows take 1.5 GB.
        """
        import pyarrow.compute as pc

        wanted = self.rows if kind == "row" else self.seeds
        wanted = wanted if most is None else min(most, wanted)
        made, ids = np.empty((wanted, self.about.dimensions), dtype=np.float32), list[str]()
        for group in self._groups("id", "kind", "vector"):
            if len(ids) == wanted:
                break
            mine = pc.equal(group.column("kind"), kind).to_numpy()
            places = np.flatnonzero(mine)[: wanted - len(ids)]
            made[len(ids) : len(ids) + len(places)] = self._numbers(group)[places]
            ids += group.column("id").take(places).to_pylist()
        return ids, made

    def _top(self, wanted: Matrix, count: int, *, restricted: bool) -> list[Near]:
        """The nearest to a unit vector; ties go to the smallest ids, however the file is divided into blocks."""
        found = list[Near]()
        for group in self._groups("id", "kind", "restricted", "vector") if count > 0 else ():
            cosines = np.round(np.clip(self._cosines(group, wanted), -1, 1), DIGITS)
            if not restricted:
                cosines[group.column("restricted").to_numpy()] = -np.inf
            least = -np.partition(-cosines, count - 1)[count - 1] if count < len(cosines) else -1.0
            places = np.flatnonzero(cosines >= max(float(least), -1.0))
            some, near = group.select(["id", "kind"]).take(places).to_pylist(), cosines[places].tolist()
            found += [
                Near(row["id"], row["kind"], round(cosine, DIGITS)) for row, cosine in zip(some, near, strict=True)
            ]
            found = sorted(found, key=lambda one: (-one.cosine, one.id))[:count]
        return found

    def _cosines(self, group: pa.Table, wanted: Matrix) -> Matrix:
        """Cosines, a few rows at a time, so that their float32 values stay in the CPU cache: half the time."""
        halves, made = self._halves(group), np.empty(group.num_rows, dtype=np.float32)
        some = np.empty((min(AT_ONCE, len(made)), self.about.dimensions), dtype=np.float32)
        for start in range(0, len(made), AT_ONCE):
            part = halves[start : start + AT_ONCE]
            some[: len(part)] = part
            np.dot(some[: len(part)], wanted, out=made[start : start + len(part)])
        return made

    def _numbers(self, group: pa.Table) -> Matrix:
        return np.asarray(self._halves(group), dtype=np.float32)

    def _halves(self, group: pa.Table) -> NDArray[np.float16]:
        column, wide = group.column("vector").combine_chunks(), self.about.dimensions
        start = column.offset * 2 * wide
        flat = np.frombuffer(column.buffers()[1], dtype="<f2", count=len(column) * wide, offset=start)
        return flat.reshape(-1, wide)

    def _groups(self, *columns: str) -> Iterator[pa.Table]:
        """Yield the file's row groups with these columns. Raises GraftError if the file is missing or damaged."""
        import pyarrow as pa

        try:
            with _opened(self.path) as file:
                for number in range(file.num_row_groups):
                    yield file.read_row_group(number, columns=list(columns))
        except (OSError, pa.ArrowException) as error:
            self.path.unlink(missing_ok=True)
            fix = f"make them again: graft map {self.about.dataset}@{self.about.version}"
            raise GraftError("the embeddings cannot be read", where=str(self.path), fix=fix) from error


def find(home: Home, found: DatasetVersion, encoder: str | None = None) -> Vectors | None:
    """Return the stored embeddings of a version, by this encoder or the most recent one; None if there are none."""
    names = "*" if encoder is None else _escaped(_safe(encoder))
    paths = [(_time_of(path), path) for path in home.vectors.glob(f"{_escaped(_stem(found))}-{names}.parquet")]
    for _, path in sorted(paths, reverse=True):
        about = _about(path)
        if about is not None and about.rule == RULE and about.key == key_of(found):
            return Vectors(path, about)
    return None


def forget(home: Home, dataset: str, version: int) -> int:
    """Delete all files of a version (every encoder, clusters and leftovers) and return their number."""
    count = 0
    for start in ("", "."):
        for path in sorted(home.vectors.glob(f"{start}{_escaped(_named(dataset, version))}-*")):
            path.unlink(missing_ok=True)
            count += not start
    return count


def key_of(found: DatasetVersion) -> str:
    """Return the key of a published version, which differs from one of the same name and number in an earlier lake."""
    return stable_hash(found.dataset, found.version, found.content_hash, found.run_id, found.created_at.isoformat())


def path_of(home: Home, found: DatasetVersion, encoder: str) -> Path:
    """Return the path of a version's embeddings by an encoder."""
    return home.vectors / f"{_stem(found)}-{_safe(encoder)}.parquet"


def _about(path: Path) -> About | None:
    """The file's description; None if it is truncated or not ours."""
    import pyarrow as pa

    try:
        with _opened(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
        about = About.model_validate_json((schema.metadata or {}).get(ABOUT, b""))
    except (OSError, pa.ArrowException, ValueError):
        return None
    return about if tuple(schema.names) == COLUMNS and rows == about.rows + about.seeds else None


def _opened(path: Path) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(path, page_checksum_verification=True)


def _stem(found: DatasetVersion) -> str:
    return f"{_named(found.dataset, found.version)}-{key_of(found)}"


def _named(dataset: str, version: int) -> str:
    return f"{_safe(dataset)}@{version}"


def _safe(name: str) -> str:
    """A name, made safe as part of a file name."""
    return name if re.fullmatch(SLUG_PATTERN, name, re.IGNORECASE) else "x" + stable_hash(name)


def _escaped(name: str) -> str:
    import glob

    return glob.escape(name)


def _time_of(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
