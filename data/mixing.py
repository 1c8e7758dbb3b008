"""How a run's texts were mixed and relabelled (PromptMix), or its messages made and scored (HarmAug): one definition of
each figure, for the card, the terminal and the pages. Counts and shares only, never a text.

*Agreement* is the share of labelled texts whose label is the intended one, the *relabel rate* its complement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from schemas.base import Value

if TYPE_CHECKING:
    from data.lake import Lake

NEAR_MARGIN = 0.2
"""A text lies near a boundary where its two likeliest labels are less than this apart in probability."""
WITH_PREFIX, WITHOUT_PREFIX = 0.9681, 0.1302
"""Shares of replies that were no refusal, with and without a begun turn (arXiv 2410.01524, 10,000 messages)."""

_MIXED = f"""
    SELECT CAST(mix->>'alpha' AS DOUBLE) AS alpha, slot_label AS class, mix->>'partner' AS partner,
           labelling->>'label' AS label, labelling->>'second' AS second,
           abs(CAST(labelling->>'margin' AS DOUBLE)) < {NEAR_MARGIN} AS close
    FROM lake.candidates WHERE run_id = ? AND mix IS NOT NULL AND labelling IS NOT NULL"""

_FIGURES = """
    count(*) AS judged, count(*) FILTER (label <> '') AS labelled, count(*) FILTER (label = class) AS agreed,
    count(*) FILTER (label = partner) AS to_partner,
    count(*) FILTER (label NOT IN ('', class, partner)) AS to_others,
    count(*) FILTER (label <> '' AND close) AS near,
    count(*) FILTER (close AND ((label = class AND second = partner) OR (label = partner AND second = class)))
        AS near_pair"""


class Mixed(Value):
    """Texts that judges looked at, and what became of their labels. Shares are of `labelled`; None where it is 0."""

    name: str = Field(description="the alpha, the pair of classes, or all")
    judged: int
    labelled: int
    agreed: int
    to_partner: int
    to_others: int
    near: int
    near_pair: int

    @property
    def agreement(self) -> float | None:
        """Share that kept the intended label."""
        return self.agreed / self.labelled if self.labelled else None

    @property
    def relabelled(self) -> float | None:
        """Share that got another label."""
        return None if self.agreement is None else 1 - self.agreement

    def share(self, count: int) -> float | None:
        """A count as a share of the labelled texts."""
        return count / self.labelled if self.labelled else None


class MixReport(Value):
    """A PromptMix run: over all, by alpha (rising), by pair of seed class and partner (most frequent first)."""

    all: Mixed
    by_alpha: tuple[Mixed, ...]
    by_pair: tuple[Mixed, ...]


class Scored(Value):
    """Accepted rows of one kind, and what the guard said of them."""

    side: str
    variant: str
    rows: int
    harmful: int
    mean_score: float | None = Field(description="mean probability of harmful")


class GuardReport(Value):
    """A HarmAug run. Refusals count messages, not the rows made of one."""

    scored: tuple[Scored, ...]
    asked: dict[str, int] = Field(description="messages by how they were asked for: prefilled, plain, base")
    refused: dict[str, int] = Field(description="those refused, by the same")
    compared: dict[str, int] = Field(description="the run's own comparison: asked_prefilled, refused_prefilled …")


def mix_report(lake: Lake, run_id: str) -> MixReport | None:
    """The figures of a PromptMix run whose texts were relabelled; None for any other."""
    whole = _mixed(lake, run_id, "'all'", "1")
    if not whole or not whole[0].judged:
        return None
    return MixReport(
        all=whole[0],
        by_alpha=_mixed(lake, run_id, "format('{:.2f}', alpha)", "name"),
        by_pair=_mixed(lake, run_id, "class || ' + ' || partner", "judged DESC, name"),
    )


def _mixed(lake: Lake, run_id: str, name: str, order: str) -> tuple[Mixed, ...]:
    query = f"SELECT {name} AS name, {_FIGURES} FROM ({_MIXED}) GROUP BY ALL ORDER BY {order}"
    return tuple(Mixed(**row) for row in lake.sql(query, [run_id]).to_pylist())


def guard_report(lake: Lake, run_id: str) -> GuardReport | None:
    """The figures of a HarmAug run; None for any other."""
    scored = lake.sql(
        """FROM (SELECT aim->>'side' AS side, aim->>'variant' AS variant, count(*) AS rows,
                        count(*) FILTER (label = 'harmful') AS harmful,
                        avg(CAST(soft_label->>'harmful' AS DOUBLE)) AS mean_score
                 FROM lake.candidates WHERE run_id = ? AND aim IS NOT NULL AND status = 'accepted' GROUP BY 1, 2)
           ORDER BY array_position(['harmful', 'borderline', 'benign'], side),
                    array_position(['empty', 'refusal', 'compliance'], variant)""",
        [run_id],
    ).to_pylist()
    asked = lake.sql(
        """SELECT CASE WHEN prefilled THEN 'prefilled' ELSE 'plain' END AS how, count(DISTINCT slot_group) AS asked,
                  count(DISTINCT slot_group) FILTER (code = 'rejected.refusal') AS refused
           FROM lake.candidates WHERE run_id = ? AND aim IS NOT NULL AND prefilled IS NOT NULL
           GROUP BY ALL ORDER BY how""",
        [run_id],
    ).to_pylist()
    if not scored and not asked:
        return None
    run = lake.run(run_id)
    compared = {key: n for key, n in (run.counts if run else {}).items() if key.startswith(("asked_", "refused_"))}
    return GuardReport(
        scored=tuple(Scored(**row) for row in scored),
        asked={row["how"]: row["asked"] for row in asked},
        refused={row["how"]: row["refused"] for row in asked},
        compared=compared,
    )


def tables(report: MixReport | GuardReport) -> list[tuple[str, list[str], list[list[str]]]]:
    """The report as tables for people: title, heads, and cells as text."""
    if isinstance(report, GuardReport):
        return _guard_tables(report)
    head = ["judged", "agreement", "to the partner", "to another", "no label", "near a boundary"]
    return [
        (title, [first, *head], [[one.name, *_mix_cells(one)] for one in (*rows, report.all)])
        for title, first, rows in (
            ("Agreement and relabelling by alpha", "alpha", report.by_alpha),
            ("Agreement and relabelling by pair of classes", "class + partner", report.by_pair[:12]),
        )
    ]


def _mix_cells(one: Mixed) -> list[str]:
    shares = (one.agreement, one.share(one.to_partner), one.share(one.to_others))
    none = (one.judged - one.labelled) / one.judged if one.judged else None
    return [str(one.judged), *map(_percent, shares), _percent(none), _percent(one.share(one.near))]


def _guard_tables(report: GuardReport) -> list[tuple[str, list[str], list[list[str]]]]:
    rows = [
        [one.side, one.variant, str(one.rows), _percent(one.harmful / one.rows),
         "" if one.mean_score is None else f"{one.mean_score:.2f}"]
        for one in report.scored
    ]  # fmt: skip
    made = [("Messages as they were meant and as the guard labelled them",
             ["meant", "response", "rows", "labelled harmful", "mean score"], rows)]  # fmt: skip
    refusals = []
    for how, paper in (("prefilled", WITH_PREFIX), ("plain", WITHOUT_PREFIX)):
        asked = report.compared.get(f"asked_{how}", 0)
        if asked:
            done = 1 - report.compared.get(f"refused_{how}", 0) / asked
            name = "with the prefix" if how == "prefilled" else "without"
            refusals.append([name, str(asked), _percent(done), f"{paper:.2%}"])
    if refusals:
        made.append(("Replies that were no refusal", ["asked", "messages", "here", "in the paper"], refusals))
    return made


def told(report: MixReport | GuardReport) -> str:
    """The report in two or three sentences."""
    if isinstance(report, MixReport):
        one = report.all
        return (
            f"{one.labelled} of {one.judged} texts got a label; {_percent(one.agreement)} kept the intended one, "
            f"{_percent(one.relabelled)} got another ({_percent(one.share(one.to_partner))} their partner's). "
            f"{_percent(one.share(one.near))} lie near a boundary, {_percent(one.share(one.near_pair))} near the one "
            "that was meant."
        )
    by_side: dict[str, list[int]] = {}
    for row in report.scored:
        pair = by_side.setdefault(row.side, [0, 0])
        pair[0] += row.rows
        pair[1] += row.harmful
    said = ", ".join(f"{side} {_percent(harmful / rows)} of {rows}" for side, (rows, harmful) in by_side.items())
    refused, asked = sum(report.refused.values()), sum(report.asked.values())
    return f"The guard labelled harmful: {said}. " + (f"{refused} of {asked} messages were refused." if asked else "")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def as_dict(report: MixReport | GuardReport | None) -> dict[str, Any]:
    """The report as plain data: `mixing` or `guard`, empty for a run of another method."""
    if report is None:
        return {}
    data = report.model_dump(mode="json")
    if isinstance(report, MixReport):
        data = {**data, **data["all"], "agreement": report.all.agreement, "relabel_rate": report.all.relabelled}
        return {"mixing": data}
    return {"guard": data}


def method_report(lake: Lake, run_id: str) -> MixReport | GuardReport | None:
    """Whichever report the run has."""
    return mix_report(lake, run_id) or guard_report(lake, run_id)
