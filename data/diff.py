"""Compares two versions: rows, labels, lengths, diversity, reviews. DuckDB counts; no row is read in Python.

Rows of the same id are matched. Of the rest, rows of the same text and response are matched in pairs.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

import orjson

from graft.data.quality.words import words_sql
from graft.data.seen import task_of
from graft.schemas.base import Value
from graft.schemas.display import plain
from graft.schemas.sections import HIDDEN
from graft.schemas.shown import Shown
from graft.schemas.tasks.base import Task, Words

if TYPE_CHECKING:
    from graft.data.lake import Lake
    from graft.schemas.datasets import DatasetVersion

Kind = Literal["added", "dropped", "relabelled", "edited", "moved"]
KINDS: tuple[Kind, ...] = ("added", "dropped", "relabelled", "edited", "moved")
SAMPLE = 100_000
"""Most rows of each version for the diversity figures: the same number of both, as diversity falls with it."""

MATCHES = {
    "dropped": "b IS NULL",
    "added": "a IS NULL",
    "relabelled": "la <> lb",
    "edited": "edited",
    "moved": "sa <> sb",
}
"""Kind of change to its condition on a pair; a row may be relabelled, edited and moved at once."""


class Measure(Value):
    """One figure of both versions. None: not available, such as scores of rows without reviews."""

    group: Literal["length", "diversity", "reviews"]
    name: str
    a: float | None
    b: float | None
    change: float | None


class Share(Value):
    """Rows of one label, or of one split, in both versions."""

    name: str
    a: int
    b: int
    change: int


class Flow(Value):
    """Rows that moved from one label, or split, to another."""

    before: str
    after: str
    rows: int


class Dropped(Value):
    """Rows that a rule left out; both names are empty if none is recorded."""

    gate: str
    rule: str
    rows: int


class Example(Value):
    """One changed row, before and after. None on the side without it."""

    kind: Kind
    id: str
    restricted: bool
    text_before: str | None
    text_after: str | None
    label_before: str | None
    label_after: str | None
    split_before: str | None
    split_after: str | None
    gate: str = ""
    rule: str = ""
    view_before: str | None = None
    """The whole row as its task shows it, if it has further columns."""
    view_after: str | None = None


class Diff(Shown, Value):
    """Differences of version `b` from version `a`."""

    a: str
    b: str
    rows_a: int
    rows_b: int
    unchanged: int
    added: int
    dropped: int
    relabelled: int
    edited: int
    moved: int
    renamed: int
    """Rows of the same text under another id; they may also be relabelled or moved."""
    sampled: int
    """Rows of each version in the diversity figures."""
    drops: tuple[Dropped, ...]
    relabels: tuple[Flow, ...]
    moves: tuple[Flow, ...]
    labels: tuple[Share, ...]
    splits: tuple[Share, ...]
    measures: tuple[Measure, ...]
    examples: tuple[Example, ...]

    def shown(self) -> dict[str, object]:
        """See Shown."""
        names = ("rows_a", "rows_b", "unchanged", "added", "dropped", "relabelled", "edited", "moved")
        return {"versions": f"{self.a} → {self.b}", **{name: getattr(self, name) for name in names}}

    @property
    def same(self) -> bool:
        """True if both hold the same rows, labels and splits."""
        return not (self.added or self.dropped or self.relabelled or self.edited or self.moved)


def diff(
    lake: Lake, a: DatasetVersion, b: DatasetVersion, *, examples: int = 3, restricted: bool = False
) -> Diff:  # fmt: skip
    """Compare two versions, of one dataset or of two. `examples` are shown of each kind of change, by id.

    The words of restricted rows are hidden unless `restricted`. A drop's rule is known if `b` was derived, in one step
    or several, from `a`.
    """
    with _paired(lake, a, b) as names:
        counts = _one(lake, COUNTS, names)
        sampled = min(a.rows, b.rows, SAMPLE)
        return Diff(
            a=a.ref,
            b=b.ref,
            rows_a=a.rows,
            rows_b=b.rows,
            **{name: int(value or 0) for name, value in counts.items()},
            sampled=sampled,
            drops=tuple(Dropped.model_validate(row) for row in _all(lake, DROPS, names)),
            relabels=tuple(Flow.model_validate(row) for row in _all(lake, FLOWS, names, way="l")),
            moves=tuple(Flow.model_validate(row) for row in _all(lake, FLOWS, names, way="s")),
            labels=_shares(a.labels, b.labels),
            splits=_shares(a.splits, b.splits),
            measures=(*_measures(lake, names, sampled),),
            examples=tuple(_examples(lake, names, (task_of(lake, a), task_of(lake, b)), examples, restricted)),
        )


PAIRED = """
    CREATE TEMP TABLE {pairs} AS
    WITH same AS (SELECT a.ordinal AS a, b.ordinal AS b FROM {a} a JOIN {b} b USING (id)),
    left_a AS (SELECT ordinal, text, response, row_number() OVER (PARTITION BY text, response ORDER BY label, id) AS nth
        FROM {a} WHERE id NOT IN (SELECT id FROM {b})),
    left_b AS (SELECT ordinal, text, response, row_number() OVER (PARTITION BY text, response ORDER BY label, id) AS nth
        FROM {b} WHERE id NOT IN (SELECT id FROM {a})),
    matched AS (SELECT x.ordinal AS a, y.ordinal AS b FROM left_a x FULL JOIN left_b y
        ON x.text = y.text AND x.nth = y.nth AND x.response IS NOT DISTINCT FROM y.response),
    every AS (SELECT a, b FROM same UNION ALL SELECT a, b FROM matched)
    SELECT every.a, every.b, x.label AS la, y.label AS lb, x.split AS sa, y.split AS sb, x.id AS ida, y.id AS idb,
        every.a IS NOT NULL AND every.b IS NOT NULL
            AND (x.text <> y.text OR x.response IS DISTINCT FROM y.response OR x.data IS DISTINCT FROM y.data) AS edited
    FROM every LEFT JOIN {a} x ON every.a = x.ordinal LEFT JOIN {b} y ON every.b = y.ordinal"""

RULES = """
    CREATE TEMP TABLE {rules} AS
    SELECT row_id, gate, rule FROM lake.drops WHERE dataset = ? AND version > ? AND version <= ?
    QUALIFY row_number() OVER (PARTITION BY row_id ORDER BY version DESC, gate, rule) = 1"""

COUNTS = """
    SELECT count(*) FILTER (a IS NOT NULL AND b IS NOT NULL AND la = lb AND sa = sb AND NOT edited) AS unchanged,
        count(*) FILTER (a IS NULL) AS added, count(*) FILTER (b IS NULL) AS dropped,
        count(*) FILTER (la <> lb) AS relabelled, count(*) FILTER (edited) AS edited,
        count(*) FILTER (sa <> sb) AS moved, count(*) FILTER (ida <> idb) AS renamed FROM {pairs}"""

DROPS = """
    SELECT coalesce(gate, '') AS gate, coalesce(rule, '') AS rule, count(*) AS rows
    FROM {pairs} LEFT JOIN {rules} ON row_id = ida WHERE b IS NULL GROUP BY ALL ORDER BY rows DESC, gate, rule"""

FLOWS = """
    SELECT {way}a AS before, {way}b AS after, count(*) AS rows FROM {pairs} WHERE {way}a <> {way}b
    GROUP BY ALL ORDER BY rows DESC, before, after"""

LENGTHS = """
    SELECT avg(length(text)) AS "characters, mean", median(length(text)) AS "characters, median",
        quantile_cont(length(text), 0.95) AS "characters, 95th percentile",
        avg(length(response)) AS "response characters, mean" FROM {side}"""

DIVERSITY = """
    WITH chosen AS (SELECT {words} AS words FROM {side}
        ORDER BY hash(id), id LIMIT {sampled}),
    -- hashes in place of words: the sets stay small
    hashed AS (SELECT list_transform(words, lambda word: hash(word)) AS words FROM chosen),
    single AS (SELECT unnest(words) AS word FROM hashed),
    pair AS (SELECT unnest(list_transform(range(1, len(words)), lambda i: hash(words[i], words[i + 1]))) AS pair
        FROM hashed)
    SELECT (SELECT count(DISTINCT pair) / nullif(count(*), 0) FROM pair) AS "distinct-2",
        (SELECT count(DISTINCT word) FROM single) AS vocabulary,
        (SELECT avg(len(words)) FROM hashed) AS "words a text, mean" """

REVIEWS = """
    SELECT count(mean) AS "reviewed rows", avg(mean) AS "score, mean", avg(spread) AS "reviewers' spread, mean",
        count(*) FILTER (route = 'agreed') / nullif(count(*) FILTER (route IN ('agreed', 'adjudicated')), 0)
            AS "reviewers agreed, share"
    FROM (SELECT DISTINCT ON (r.id) c.mean, c.spread, c.route FROM {side} r JOIN lake.candidates c
        ON c.run_id = r.run_id AND c.candidate_id = r.candidate_id WHERE c.mean IS NOT NULL)"""

EXAMPLES = """
    WITH chosen AS (SELECT * FROM {pairs} WHERE {condition} ORDER BY coalesce(ida, idb) LIMIT {limit})
    SELECT coalesce(ida, idb) AS id, coalesce(x.restricted, false) OR coalesce(y.restricted, false) AS restricted,
        x.text AS text_before, y.text AS text_after, x.response AS response_before, y.response AS response_after,
        x.data AS data_before, y.data AS data_after, la AS label_before, lb AS label_after,
        sa AS split_before, sb AS split_after, coalesce(gate, '') AS gate, coalesce(rule, '') AS rule
    FROM chosen LEFT JOIN {a} x ON chosen.a = x.ordinal LEFT JOIN {b} y ON chosen.b = y.ordinal
    LEFT JOIN {rules} ON row_id = ida AND chosen.b IS NULL ORDER BY 1"""


@contextmanager
def _paired(lake: Lake, a: DatasetVersion, b: DatasetVersion) -> Iterator[dict[str, str]]:
    """Temporary tables of this comparison: both sides, their pairs, and the rules of dropped rows."""
    mark = uuid.uuid4().hex
    names = {name: f"temp.diff_{name}_{mark}" for name in ("a", "b", "pairs", "rules")}
    derived = a.dataset == b.dataset and a.version < b.version
    try:
        for name, side in (("a", a), ("b", b)):
            query = f"""
                CREATE TEMP TABLE {names[name].removeprefix("temp.")} AS SELECT * EXCLUDE (dataset, version)
                FROM lake.version_rows WHERE dataset = ? AND version = ?"""
            lake.sql(query, [side.dataset, side.version])
        made = {**names, "pairs": names["pairs"].removeprefix("temp."), "rules": names["rules"].removeprefix("temp.")}
        lake.sql(PAIRED.format(**made))
        lake.sql(RULES.format(**made), [b.dataset, a.version if derived else b.version, b.version])
        yield names
    finally:
        import duckdb

        for name in names.values():
            with suppress(duckdb.Error):
                lake.sql(f"DROP TABLE IF EXISTS {name}")


def _all(lake: Lake, query: str, names: Mapping[str, str], **more: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = lake.query(query.format(**names, **more))
    return found


def _one(lake: Lake, query: str, names: Mapping[str, str], **more: object) -> dict[str, Any]:
    return _all(lake, query, names, **more)[0]


def _shares(a: Mapping[str, int], b: Mapping[str, int]) -> tuple[Share, ...]:
    """The first version's names in its order, then those that only the second has."""
    both = dict.fromkeys((*a, *b))
    return tuple(
        Share(name=name, a=a.get(name, 0), b=b.get(name, 0), change=b.get(name, 0) - a.get(name, 0)) for name in both
    )


def _measures(lake: Lake, names: Mapping[str, str], sampled: int) -> Iterator[Measure]:
    queries: tuple[tuple[Literal["length", "diversity", "reviews"], str], ...] = (
        ("length", LENGTHS), ("diversity", DIVERSITY), ("reviews", REVIEWS),
    )  # fmt: skip
    words = words_sql("text")
    for group, query in queries:
        before, after = (
            _one(lake, query, names, side=names[side], sampled=sampled, words=words) for side in ("a", "b")
        )
        for name in before:
            x, y = (None if value is None else float(value) for value in (before[name], after[name]))
            if x is not None or y is not None:
                change = None if x is None or y is None else y - x
                yield Measure(group=group, name=name, a=x, b=y, change=change)


def _examples(
    lake: Lake, names: Mapping[str, str], tasks: tuple[Task, Task], limit: int, restricted: bool
) -> Iterator[Example]:
    for kind in KINDS:
        for row in _all(lake, EXAMPLES, names, condition=MATCHES[kind], limit=max(0, limit)):
            hidden = row["restricted"] and not restricted
            for side, task in zip(("before", "after"), tasks, strict=True):
                response, data = row.pop(f"response_{side}"), row.pop(f"data_{side}")
                if data not in (None, "{}") and not hidden:
                    whole = Words(row[f"text_{side}"], response, data=orjson.loads(data))
                    row[f"view_{side}"] = plain(task.view(whole))
            words = {name: HIDDEN for name in ("text_before", "text_after") if hidden and row[name] is not None}
            yield Example.model_validate({"kind": kind, **row, **words})
