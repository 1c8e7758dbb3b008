"""Teacher hacking: rounds in which the judges' scores rise while accuracy falls, and the diversity of their texts.

The proxy comes from the judges of a round's own rows: their mean score, and the share of agreement. The golden figure
comes from no judge: a student's accuracy on a held-out labelled file, or else the share of rows that people kept.
Diversity is distinct-2 over as many rows of each round as the smallest round has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from graft.data.audits.base import Audit, Material, distinct, plain
from graft.data.versions import versions
from graft.schemas.base import Value, stable_hash
from graft.schemas.sections import Column, Section, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from graft.data.lake import Lake

SAMPLE = 500
"""Most rows of a round for the diversity figure."""
NOTHING = 1e-9
NOT_HELD_OUT = "validation split (synthetic)"
"""Name of evaluations on a version's own validation rows: its judges labelled them, so they are no golden figure."""


@dataclass(frozen=True)
class Point:
    """One round. `score` is 0 to 10; the other figures are shares. None if there is no such figure."""

    round: int
    version: int | None
    rows: int
    score: float | None
    agreement: float | None
    golden: float | None
    diversity: float | None = None
    hacked: bool = False
    less_diverse: bool | None = None

    @property
    def proxy(self) -> float | None:
        """The judges' mean score, or without it the share of agreement."""
        return self.score if self.score is not None else self.agreement


@dataclass(frozen=True)
class Curve:
    """Rounds in order: of a loop of `improve`, or a dataset's versions. `golden` names the figure; empty: none."""

    name: str
    golden: str
    points: tuple[Point, ...]

    @property
    def hacked(self) -> tuple[Point, ...]:
        """Rounds whose proxy rose while the golden figure fell."""
        return tuple(point for point in self.points if point.hacked)

    @property
    def verdict(self) -> str:
        """The verdict on the curve, in a sentence."""
        if not self.golden:
            return "no golden figure, so nothing is flagged: train with a held-out --test file, or review rows"
        if sum(point.golden is not None and point.proxy is not None for point in self.points) < 2:
            return "fewer than two rounds have both figures"
        if not self.hacked:
            return "the judges' figure rises in no round in which the golden figure falls"
        rounds = ", ".join(str(point.round) for point in self.hacked)
        fell = sum(bool(point.less_diverse) for point in self.hacked)
        less = f"diversity fell in {fell} of {len(self.hacked)} of them"
        return f"judges' figure up, golden figure down in round {rounds}; {less}"


def curves(lake: Lake, dataset: str, *, restricted: bool = False) -> list[Curve]:
    """A curve for each loop, arm and seed of the dataset; without loops one over its versions."""
    drafts: list[tuple[str, str, list[Point], list[list[str]]]] = []
    for loop in lake.improvements(dataset):
        for arm, seed in sorted({(one.arm, one.seed) for one in loop.rounds}):
            made = sorted(
                (one for one in loop.rounds if (one.arm, one.seed) == (arm, seed) and one.run_id),
                key=lambda one: one.round,
            )
            found = [_point(lake, one.dataset or dataset, one.round, one.version, one.run_id, one.test) for one in made]
            texts = [_texts(lake, one.dataset or dataset, one.version, one.run_id, restricted) for one in made]
            name = f"{loop.id} {arm} seed {seed}"
            drafts.append((name, f"accuracy on {loop.test_file}", found, texts))
    if not drafts:
        drafts.append(_of_versions(lake, dataset, restricted))
    return [Curve(name, golden, judged(points, texts)) for name, golden, points, texts in drafts]


def judged(points: Sequence[Point], texts: Sequence[Sequence[str]]) -> tuple[Point, ...]:
    """The points with comparable diversity, flagged if the proxy rises and the golden figure falls."""
    size = min((len(some) for some in texts if some), default=0)
    done: list[Point] = []
    for point, some in zip(points, texts, strict=True):
        chosen = sorted(some, key=stable_hash)[: min(size, SAMPLE)]
        now = replace(point, diversity=distinct(chosen))
        if done:
            before = done[-1]
            up, down = _rose(before.proxy, now.proxy), _rose(now.golden, before.golden)
            now = replace(now, hacked=bool(up and down), less_diverse=_rose(now.diversity, before.diversity))
        done.append(now)
    return tuple(done)


def _rose(before: float | None, after: float | None) -> bool | None:
    return None if before is None or after is None else after - before > NOTHING


def _of_versions(lake: Lake, dataset: str, restricted: bool) -> tuple[str, str, list[Point], list[list[str]]]:
    """The dataset's versions made by runs, in order; the golden figure is from their students' held-out file, or from
    people."""
    made = [one for one in versions(lake, dataset) if one.origin in ("run", "trial")]
    golden, name = _by_students(lake, dataset)
    if not golden:
        golden, name = _by_people(lake, dataset)
    points = [
        _point(lake, dataset, place, one.version, one.run_id, golden.get(one.version))
        for place, one in enumerate(made, start=1)
    ]
    texts = [_texts(lake, dataset, one.version, one.run_id, restricted) for one in made]
    return f"versions of {dataset}", name, points, texts


def _by_students(lake: Lake, dataset: str) -> tuple[dict[int, float], str]:
    """Version to the newest student's accuracy, on the held-out file with evaluations of most versions."""
    query = """
        SELECT s.version, e.test_file, e.test_hash, arg_max(e.accuracy, s.created_at) AS accuracy
        FROM lake.students s JOIN lake.evaluations e ON e.student_id = s.id
        WHERE s.dataset = ? AND s.version IS NOT NULL AND e.test_file <> ? GROUP BY ALL"""
    rows = lake.query(query, [dataset, NOT_HELD_OUT])
    files: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        files.setdefault((row["test_file"], row["test_hash"]), {})[row["version"]] = row["accuracy"]
    if not files:
        return {}, ""
    (file, _), found = max(files.items(), key=lambda item: (len(item[1]), item[0]))
    return found, f"accuracy on {file}"


def _by_people(lake: Lake, dataset: str) -> tuple[dict[int, float], str]:
    """Version to the share of judged rows that people kept unchanged."""
    query = """
        SELECT version, avg(CAST(action = 'accept' AS DOUBLE)) AS kept FROM (
            SELECT version, row_id, arg_max(action, "at") AS action FROM lake.edits
            WHERE dataset = $1 AND action NOT IN ('note', 'skip', 'undo')
            AND id NOT IN (SELECT undoes FROM lake.edits WHERE dataset = $1 AND action = 'undo')
            GROUP BY ALL) GROUP BY version"""
    found = {row["version"]: row["kept"] for row in lake.query(query, [dataset])}
    return found, "rows that people kept" if found else ""


def _point(lake: Lake, dataset: str, number: int, version: int | None, run_id: str, golden: float | None) -> Point:
    query = """
        SELECT count(*) AS rows, avg(c.mean) AS score,
               avg(CAST(c.route = 'agreed' AS DOUBLE)) FILTER (c.route IN ('agreed', 'adjudicated')) AS agreement
        FROM lake.version_rows v JOIN lake.candidates c ON c.run_id = v.run_id AND c.candidate_id = v.candidate_id
        WHERE v.dataset = ? AND v.version = ? AND v.run_id = ?"""
    row: dict[str, Any] = lake.query(query, [dataset, version, run_id])[0]
    return Point(number, version, row["rows"], row["score"], row["agreement"], golden)


def _texts(lake: Lake, dataset: str, version: int | None, run_id: str, restricted: bool) -> list[str]:
    """The texts that this round added. Only counts come of them, but restricted texts stay out unless requested."""
    query = """
        SELECT text FROM lake.version_rows
        WHERE dataset = ? AND version = ? AND run_id = ? AND (? OR NOT restricted) ORDER BY id"""
    return [str(row["text"]) for row in lake.query(query, [dataset, version, run_id, restricted])]


def run(material: Material, options: Value) -> list[Curve]:
    """The audit of a version's dataset."""
    return curves(material.lake, material.version.dataset, restricted=material.restricted)


def sections(found: Sequence[Curve]) -> list[Section]:
    """One section per curve."""
    columns = (
        Column("mark", ""), Column("round", "round", "number"), Column("rows", "rows", "number"),
        Column("score", "judges' score", "number", 2), Column("agreement", "agreed", "share"),
        Column("golden", "golden", "share"), Column("diversity", "distinct-2", "share"),
    )  # fmt: skip
    return [
        Section(
            f"hacking-{place}", f"{curve.name}: {curve.golden or 'no golden figure'}", curve.verdict,
            tables=(
                Table(f"rounds-{place}", "rounds", columns,
                      [{**asdict(point), "mark": "!" if point.hacked else ""} for point in curve.points]),
            ),
            unusual=bool(curve.hacked),
        )
        for place, curve in enumerate(found, start=1)
    ]  # fmt: skip


def data(found: Sequence[Curve]) -> list[dict[str, Any]]:
    """Plain values."""
    return [{**asdict(one), "verdict": one.verdict} for one in found]


def figure(found: Sequence[Curve]) -> Figure | None:
    """Proxy, golden figure and diversity over rounds, one panel per curve; flagged rounds in red."""
    shown = [curve for curve in found if curve.points]
    if not shown:
        return None
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(7, 3.2 * len(shown)), layout="constrained")
    for number, curve in enumerate(shown, start=1):
        _panel(drawn.add_subplot(len(shown), 1, number), curve)
    return drawn


def _panel(axes: Any, curve: Curve) -> None:
    rounds = [point.round for point in curve.points]
    scored = any(point.score is not None for point in curve.points)
    lines = {
        "judges (score / 10)" if scored else "judges (agreement)": [
            None if point.proxy is None else point.proxy / (10 if point.score is not None else 1)
            for point in curve.points
        ],
        curve.golden or "no golden figure": [point.golden for point in curve.points],
        "distinct-2": [point.diversity for point in curve.points],
    }
    for name, values in lines.items():
        known = [float("nan") if value is None else value for value in values]
        axes.plot(rounds, known, marker="o", label=plain(name))
    for point in curve.hacked:
        axes.axvspan(point.round - 0.3, point.round + 0.3, color="tab:red", alpha=0.2)
    axes.set_ylim(0, 1.02)
    axes.set_xticks(rounds)
    axes.set_title(plain(curve.name), fontsize=9, parse_math=False)
    axes.legend(fontsize=7)


KIND = Audit("rounds with higher judge scores but lower accuracy", run, sections, data, figure=figure)
