"""`graft map`: embed a version for the map, neighbours, semantic search and duplicate clusters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.options import JsonFlag, RefArg

if TYPE_CHECKING:
    from graft.data.lake import Lake
    from graft.data.vectors import Cluster, Vectors
    from graft.schemas.datasets import DatasetVersion
    from graft.schemas.home import Home

SHOWN = 10
"""Number of clusters printed, and of row ids in each."""
COSINE = 0.9
LINE_S = 3.0
"""Seconds between two progress lines if there is no terminal."""


def draw(
    ref: RefArg,
    every: Annotated[bool, typer.Option("--all", help="embed every row instead of a sample of 20,000")] = False,
    json: JsonFlag = False,
) -> None:
    """Embed a version once, for its map, neighbours, semantic search and duplicate clusters.

    Example:  graft map demo
    """
    from graft.cli.show import as_json
    from graft.data.lake import Lake
    from graft.data.vectors import clusters
    from graft.data.versions import version
    from graft.schemas.errors import Interrupted
    from graft.schemas.home import Home

    begun = time.perf_counter()
    home = Home.find()
    with Lake.open(home, read_only=True) as lake:
        found = version(lake, ref)
        try:
            vectors = _embedded(home, lake, found, every=every, quiet=json)
            found_clusters = clusters(vectors, COSINE)
        except KeyboardInterrupt:
            fix = "finished embeddings are kept, partial ones are not: run the same command again"
            raise Interrupted("stopped", fix=fix) from None
    seconds = time.perf_counter() - begun
    if json:
        about = vectors.about.model_dump(mode="json", exclude={"rule", "key"})
        shown = [one.model_dump(mode="json") for one in found_clusters]
        as_json({**about, "path": str(vectors.path), "seconds": round(seconds, 2), "clusters": shown})
    else:
        _tell(found, vectors, found_clusters, seconds)


def _embedded(home: Home, lake: Lake, found: DatasetVersion, *, every: bool, quiet: bool) -> Vectors:
    """The embeddings on disk if they suffice; the encoder need not be installed then."""
    from graft.agents.local.encoder import embed
    from graft.data.vectors import ENCODER, LIMIT, build, find

    there = find(home, found, ENCODER)
    if there is not None and (there.whole or (not every and there.rows >= LIMIT)):
        return there
    embed(["ready?"])  # raises MissingExtra before any work begins
    with progress(quiet=quiet) as say:
        return build(home, lake, found, embed, encoder=ENCODER, limit=None if every else LIMIT, say=say)


@contextmanager
def progress(*, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A callback for (done, total): a bar on a terminal, occasional lines elsewhere, nothing with JSON output."""
    from graft.cli.show import console

    out = console()
    if quiet:
        yield lambda done, total: None
    elif out.is_terminal:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=out, transient=True) as bar:
            task = bar.add_task("embedding", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        last_line = [time.monotonic()]

        def line(done: int, total: int) -> None:
            if time.monotonic() - last_line[0] >= LINE_S:
                last_line[0] = time.monotonic()
                out.print(f"embedded {done:,} of {total:,} rows and seeds", markup=False)

        yield line


def _tell(found: DatasetVersion, vectors: Vectors, clusters: list[Cluster], seconds: float) -> None:
    from graft.cli.show import console, table

    def say(text: str) -> None:
        console().print(text, markup=False, soft_wrap=True)

    sample = "" if vectors.whole else f" of {vectors.about.of_rows:,}, a sample (--all embeds every row)"
    say(f"{found.ref}: {vectors.rows:,} rows{sample} and {vectors.seeds:,} seeds embedded by {vectors.encoder}")
    say(f"{vectors.about.placed:,} points on the map by {vectors.projection}, {seconds:.1f} s")
    say(f"view it: graft dashboard, page Map of {found.ref}")
    if not clusters:
        say(f"no two rows have a cosine of {COSINE:g} or more")
        return
    rows = [
        [len(one.members), f"{one.lowest:.2f}–{one.highest:.2f}", ", ".join(map(_printable, one.members[:SHOWN]))]
        for one in clusters[:SHOWN]
    ]
    inside = sum(len(one.members) for one in clusters)
    title = f"{len(clusters):,} clusters of near duplicates hold {inside:,} rows (cosine {COSINE:g} or more)"
    table(title, ["rows", "cosine", f"ids (the first {SHOWN})"], rows, right=("rows",))


def _printable(row_id: str) -> str:
    """An id without control characters: an imported id may hold a terminal escape sequence."""
    return "".join(c if c.isprintable() else " " for c in row_id)
