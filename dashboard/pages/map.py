"""Map: a version's rows and seeds by meaning, near duplicates, and close pairs with different labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from graft.dashboard.charts import ACCENT, OTHERS, PALETTE, REST, SECOND, SPLITS, shades
from graft.dashboard.charts.shapes import scatter
from graft.dashboard.context import Chart, Page, PageContext, Spec, context_of
from graft.dashboard.figures import map as figures
from graft.dashboard.meaning import COSINE, Alike, meaning_of
from graft.dashboard.pages.row import address
from graft.data.versions import version
from graft.schemas.errors import GraftError
from graft.schemas.sections import Column, Table

if TYPE_CHECKING:
    from graft.data.vectors import Placed, Vectors
    from graft.schemas.datasets import DatasetVersion

COLOURS = {"label": "label", "source": "source", "split": "split", "score": "reviewers' mean", "kind": "seed or row"}
SCORED = ("#d22c15", "#cf621c", "#c28113", "#5f9099", "#1e97d5", "#3369ea", OTHERS)
"""Colours of the score bands, lowest first; the last is for points without a score."""
WIDTH, MARGIN = 1000, 14
LOWEST, HIGHEST = 420, 900
"""Height of the drawing, in units of its width."""


@dataclass(frozen=True)
class Dot:
    """A drawn point."""

    id: str
    seed: bool
    x: float
    y: float
    title: str
    faint: bool


@dataclass(frozen=True)
class Panel:
    """One panel: dots by colour, rare values first, seeds last."""

    title: str
    groups: list[tuple[str, list[Dot]]]


def draw_map(request: Request) -> Response:
    """A version's map. `colour` selects the colouring, `only` highlights a value, `beside` separates seeds."""
    context, query = context_of(request), request.query_params
    found = version(context.lake, request.path_params["ref"])
    helper = meaning_of(context.home)
    vectors = helper.vectors(found)
    if vectors is None:
        return context.page(
            request, "map.html.jinja", f"Map of {found.ref}", ref=found.ref, version=found, vectors=None,
            making=helper.making(found),
        )  # fmt: skip
    colour = query.get("colour", "label")
    colour = colour if colour in COLOURS else "label"
    points = figures.points(context.lake, found, vectors)
    shaded = figures.groups(points, colour, _shades(found, colour, points), OTHERS)
    only = query.get("only", "") if query.get("only", "") in shaded else ""
    beside = query.get("beside") == "1"
    alike, failed = _alike(context, found, vectors)
    return context.page(
        request, "map.html.jinja", f"Map of {found.ref}", ref=found.ref, version=found, vectors=vectors,
        tables=_tables(context, found, alike, every=query.get("csv") == "clusters") if alike else (),
        alike=alike, failed=failed, cosine=COSINE,
        panels=_panels(points, shaded, colour, only, beside=beside), height=_height(points), width=WIDTH,
        radius=_radius(len(points)) * (1.5 if beside else 1), diamond=11 if beside else 7,
        own=len(PALETTE), legend=[(name, *shade) for name, shade in shaded.items()], colours=COLOURS, colour=colour,
        only=only, beside=beside, count=len(points), seeds=sum(point.kind == "seed" for point in points),
        link=_linker(found, colour, only, beside=beside), at=address,
        file=lambda kind: f"/charts/map.{kind}?" + urlencode({"of": found.ref, "colour": colour}),
    )  # fmt: skip


def make(request: Request) -> Response:
    """Begin to embed the version; redirects to its map, or to the semantic search that needs it."""
    context, query = context_of(request), request.query_params
    found = version(context.lake, request.path_params["ref"])
    meaning_of(context.home).make(found)
    if meaning := query.get("meaning", ""):
        return RedirectResponse("/rows?" + urlencode({"ref": found.ref, "meaning": meaning}), status_code=303)
    return RedirectResponse(f"/datasets/{quote(found.ref)}/map", status_code=303)


def draw_scatter(context: PageContext, given: Mapping[str, str]) -> Spec | None:
    """`of`: the version; `colour`: the colouring."""
    found = version(context.lake, given.get("of", ""))
    vectors = meaning_of(context.home).vectors(found)
    if vectors is None:
        return None
    colour = given.get("colour", "label")
    if colour not in COLOURS:
        raise GraftError(f"no colour {colour[:40]!r}", where="map", fix=f"one of: {', '.join(COLOURS)}")
    points = figures.points(context.lake, found, vectors)
    shaded = figures.groups(points, colour, _shades(found, colour, points), OTHERS)
    shown = {name: shade for name, (shade, _) in shaded.items() if shade != OTHERS or colour == "score"}
    rows = figures.chart_rows(points, colour, shown, REST)
    domain = {**shown, **({REST: OTHERS} if len(shown) < len(shaded) else {})}
    return scatter(rows, x="x", y="y", value="value", part="kind", colours=domain, title=COLOURS[colour])


def _shades(found: DatasetVersion, colour: str, points: Sequence[Placed]) -> Sequence[str]:
    """The colours of the values, in the values' order."""
    if colour == "score":
        present = {figures.score_of(point) for point in points}
        return [shade for name, shade in zip(figures.SCORES, SCORED, strict=True) if name in present]
    if colour == "kind":
        return (ACCENT, SECOND)
    if colour == "label":
        kept = shades(found.labels)
        return [kept.get(name, OTHERS) for name in figures.groups(points, colour, (), OTHERS)]
    if colour == "split":
        counted = figures.groups(points, colour, (), OTHERS)
        return [SPLITS.get(name, OTHERS) for name in counted]
    return PALETTE


def _panels(
    points: Sequence[Placed], shaded: Mapping[str, tuple[str, int]], colour: str, only: str, *, beside: bool
) -> list[Panel]:
    """The panels: all points in one, or seeds and rows side by side on the same axes."""
    placed = _placer(points)
    dots: dict[str, dict[str, list[Dot]]] = {"seed": {}, "row": {}}
    for point in points:
        value = figures.value_of(point, colour)
        x, y = placed(point)
        dot = Dot(point.id, point.kind == "seed", x, y, f"{point.label or 'no label'}: {point.text}",
                  bool(only) and value != only)  # fmt: skip
        dots[point.kind].setdefault(shaded[value][0], []).append(dot)
    rows, seeds = (list(reversed(dots[kind].items())) for kind in ("row", "seed"))
    if beside:
        return [Panel("seeds", seeds), Panel("rows", rows)]
    return [Panel("", [*rows, *seeds])]


def _extent(points: Sequence[Placed]) -> tuple[float, float, float, float]:
    xs, ys = [point.x for point in points] or [0.0], [point.y for point in points] or [0.0]
    return min(xs), max(xs), min(ys), max(ys)


def _height(points: Sequence[Placed]) -> int:
    left, right, low, high = _extent(points)
    return round(min(HIGHEST, max(LOWEST, WIDTH * (high - low) / ((right - left) or 1.0))))


def _radius(count: int) -> float:
    return 7 if count < 500 else 5.5 if count < 1500 else 4.5


def _placer(points: Sequence[Placed]) -> Callable[[Placed], tuple[float, float]]:
    """A function from a point to its place in the drawing: both axes at one scale, centred."""
    left, right, low, high = _extent(points)
    height = _height(points)
    wide, tall = WIDTH - 2 * MARGIN, height - 2 * MARGIN
    scale = min(wide / ((right - left) or 1.0), tall / ((high - low) or 1.0))
    x0, y0 = WIDTH / 2 - scale * (left + right) / 2, height / 2 + scale * (low + high) / 2
    return lambda point: (round(x0 + scale * point.x, 1), round(y0 - scale * point.y, 1))


def _linker(found: DatasetVersion, colour: str, only: str, *, beside: bool) -> Callable[..., str]:
    """Addresses of this map with one parameter changed."""
    kept = {"colour": colour, **({"only": only} if only else {}), **({"beside": "1"} if beside else {})}

    def link(**more: str) -> str:
        options = {name: value for name, value in {**kept, **more}.items() if value}
        return f"/datasets/{quote(found.ref)}/map?" + urlencode(options)

    return link


def _alike(context: PageContext, found: DatasetVersion, vectors: Vectors) -> tuple[Alike | None, str]:
    """Near duplicates and close pairs, or why they are not known."""
    try:
        return meaning_of(context.home).alike(found, vectors), ""
    except GraftError as error:
        return None, f"{error.what}. {error.fix}".strip()


def _tables(context: PageContext, found: DatasetVersion, alike: Alike, *, every: bool) -> tuple[Table, ...]:
    clusters = figures.cluster_rows(
        context.lake, found, alike.clusters if every else alike.clusters[: figures.CLUSTERS]
    )
    for row in clusters:
        row["at"] = "/rows?" + urlencode({"ref": found.ref, "cluster": row["first"]})
        row["range"] = f"{row['lowest']:.2f} – {row['highest']:.2f}"
    pairs = figures.pair_rows(context.lake, found, alike.pairs)
    for row in pairs:
        row["at"], row["other_at"] = address(row["id"]), address(row["other"])
    inside = sum(len(one.members) for one in alike.clusters)
    return (
        Table(
            "clusters", "Near duplicates",
            (Column("size", "rows", "number"), Column("range", "cosine"), Column("labels", "labels"),
             Column("example", "example", link="at")),
            clusters, empty=f"No two rows have a cosine of {COSINE:g} or more.",
            note=f"{len(alike.clusters):,} clusters hold {inside:,} rows"
            + (f"; the {figures.CLUSTERS} largest are shown, the CSV has all" if len(alike.clusters) > figures.CLUSTERS
               else ""),
        ),
        Table(
            "pairs", "Close pairs with different labels",
            (Column("cosine", "cosine", "number", 3), Column("label", "label"), Column("text", "row", link="at"),
             Column("other_label", "other label"), Column("other_text", "row or seed", link="other_at"),
             Column("kind", "kind")),
            pairs, empty="There is only one label, so there are no pairs with different labels.",
            note="the most likely label errors come first; each row is listed once",
        ),
    )  # fmt: skip


PAGES = (
    Page("/datasets/{ref}/map", "map", draw_map, tab="Map", plain=("colour", "only", "beside")),
    Page("/datasets/{ref}/embed", "embed", make, posts=True),
)
CHARTS = (Chart("map", "rows and seeds by meaning", draw_scatter),)
