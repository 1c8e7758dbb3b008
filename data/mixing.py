"""How a run's texts were mixed and relabelled (PromptMix), or its messages made and scored (HarmAug): one definition of
each figure, for the card, the terminal and the pages. Counts and shares only, never a text.

*Agreement* is the share of labelled texts whose label is the intended one, the *relabel rate* its complement.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from graft.schemas.base import Value

if TYPE_CHECKING:
    from graft.data.lake import Lake

NEAR_MARGIN = 0.2
"""A text lies near a boundary where its two likeliest labels are less than this apart in probability."""
PAIRS_SHOWN = 12
WITH_PREFIX, WITHOUT_PREFIX = 0.9681, 0.1302
"""Shares of replies that were no refusal, with and without a begun turn (arXiv 2410.01524, 10,000 messages)."""

_MIXED = f"""
    SELECT round(CAST(payload->>'alpha' AS DOUBLE) * 20) / 20 AS alpha, slot_label AS class,
           payload->>'partner' AS partner,
           labelling->>'label' AS label, labelling->>'second' AS second,
           abs(CAST(labelling->>'margin' AS DOUBLE)) < {NEAR_MARGIN} AS close
    FROM lake.candidates WHERE run_id = ? AND (payload->>'alpha') IS NOT NULL AND labelling IS NOT NULL
        AND NOT (status = 'failed' AND (labelling->>'label') = '')"""
"""Without texts that no judge gave a judgement of: those failed, they are not without a label."""

_FIGURES = """
    count(*) AS judged, count(*) FILTER (label <> '') AS labelled, count(*) FILTER (label = class) AS agreed,
    count(*) FILTER (label = partner) AS to_partner,
    count(*) FILTER (label NOT IN ('', class, partner)) AS to_others,
    count(*) FILTER (label <> '' AND close) AS near,
    count(*) FILTER (close AND ((label = class AND second = partner) OR (label = partner AND second = class)))
        AS near_pair"""


class Mixed(Value):
    """Texts that judges looked at, and what became of their labels. Shares are of `labelled`; None where it is 0."""

    name: str = Field(description="the alpha to the nearest 0.05, the pair of classes, or all")
    seed_class: str = Field(default="", description="of a pair: the class that was meant")
    partner: str = Field(default="", description="of a pair: the class that it was mixed with")
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

    @property
    def no_label(self) -> float | None:
        """Share of the judged texts that got no label."""
        return (self.judged - self.labelled) / self.judged if self.judged else None

    def share(self, count: int) -> float | None:
        """A count as a share of the labelled texts."""
        return count / self.labelled if self.labelled else None

    def as_dict(self) -> dict[str, Any]:
        """Counts and rates as plain data."""
        rates = {"agreement": self.agreement, "relabel_rate": self.relabelled, "no_label_rate": self.no_label}
        near = {"near_share": self.share(self.near), "near_pair_share": self.share(self.near_pair)}
        return {**self.model_dump(mode="json"), **rates, **near}


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
    asked: dict[str, int] = Field(description="messages by how they were asked for: prefilled, plain")
    refused: dict[str, int] = Field(description="those refused, by the same")
    compared: dict[str, int] = Field(description="the run's own comparison: asked_prefilled, refused_prefilled …")

    def not_refused(self, how: str) -> float | None:
        """Share of the comparison's replies that were no refusal; `how`: prefilled or plain. None: none was asked."""
        asked = self.compared.get(f"asked_{how}", 0)
        return 1 - self.compared.get(f"refused_{how}", 0) / asked if asked else None


def mix_report(lake: Lake, run_id: str) -> MixReport | None:
    """The figures of a PromptMix run whose texts were relabelled; None for any other."""
    whole = _mixed(lake, run_id, "'all'", "1")
    if not whole or not whole[0].judged:
        return None
    return MixReport(
        all=whole[0],
        by_alpha=_mixed(lake, run_id, "format('{:.2f}', alpha)", "name"),
        by_pair=_mixed(
            lake,
            run_id,
            "class || ' + ' || partner",
            "judged DESC, seed_class, partner",
            ", class AS seed_class, partner AS partner",
        ),
    )


def _mixed(lake: Lake, run_id: str, name: str, order: str, also: str = "") -> tuple[Mixed, ...]:
    query = f"SELECT {name} AS name{also}, {_FIGURES} FROM ({_MIXED}) GROUP BY ALL ORDER BY {order}"
    return tuple(Mixed(**row) for row in lake.sql(query, [run_id]).to_pylist())


def guard_report(lake: Lake, run_id: str, counts: Mapping[str, int] | None = None) -> GuardReport | None:
    """The figures of a HarmAug run; None for any other. `counts`: the run's, where its record lacks them."""
    scored = lake.sql(
        """FROM (SELECT payload->>'side' AS side, payload->>'variant' AS variant, count(*) AS rows,
                        count(*) FILTER (label = 'harmful') AS harmful,
                        avg(CAST(soft_label->>'harmful' AS DOUBLE)) AS mean_score
                 FROM lake.candidates WHERE run_id = ? AND (payload->>'side') IS NOT NULL AND status = 'accepted'
                 GROUP BY 1, 2)
           ORDER BY array_position(['harmful', 'borderline', 'benign'], side),
                    array_position(['empty', 'refusal', 'compliance'], variant)""",
        [run_id],
    ).to_pylist()
    asked = lake.sql(
        """SELECT CASE WHEN CAST(notes->>'prefilled' AS BOOLEAN) THEN 'prefilled' ELSE 'plain' END AS how,
                  count(DISTINCT message) AS asked,
                  count(DISTINCT message) FILTER (code = 'rejected.refusal') AS refused
           FROM (SELECT *, coalesce(nullif(slot_group, ''), slot_id) AS message FROM lake.candidates)
           WHERE run_id = ? AND (notes->>'prefilled') IS NOT NULL GROUP BY ALL ORDER BY how""",
        [run_id],
    ).to_pylist()
    if not scored and not asked:
        return None
    if counts is None:
        run = lake.run(run_id)
        counts = run.counts if run else {}
    compared = {key: n for key, n in counts.items() if key.startswith(("asked_", "refused_"))}
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
            ("Agreement and relabelling by pair of classes", "class + partner", report.by_pair[:PAIRS_SHOWN]),
        )
    ]


def _mix_cells(one: Mixed) -> list[str]:
    shares = (one.agreement, one.share(one.to_partner), one.share(one.to_others))
    return [str(one.judged), *map(_percent, shares), _percent(one.no_label), _percent(one.share(one.near))]


def _guard_tables(report: GuardReport) -> list[tuple[str, list[str], list[list[str]]]]:
    rows = [
        [one.side, one.variant, str(one.rows), _percent(one.harmful / one.rows),
         "" if one.mean_score is None else f"{one.mean_score:.2f}"]
        for one in report.scored
    ]  # fmt: skip
    made = []
    if rows:
        head = ["meant", "response", "rows", "labelled harmful", "mean score"]
        made.append(("Messages as they were meant and as the guard labelled them", head, rows))
    refusals = []
    for how, paper in (("prefilled", WITH_PREFIX), ("plain", WITHOUT_PREFIX)):
        done = report.not_refused(how)
        if done is not None:
            name = "with the prefix" if how == "prefilled" else "without"
            refusals.append([name, str(report.compared[f"asked_{how}"]), _percent(done), f"{paper:.2%}"])
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
    return _told_guard(report)


def _told_guard(report: GuardReport) -> str:
    by_side: dict[str, list[int]] = {}
    for row in report.scored:
        pair = by_side.setdefault(row.side, [0, 0])
        pair[0] += row.rows
        pair[1] += row.harmful
    said = ", ".join(f"{side} {_percent(harmful / rows)} of {rows}" for side, (rows, harmful) in by_side.items())
    refused, asked = sum(report.refused.values()), sum(report.asked.values())
    lines = [f"The guard labelled harmful: {said}."] if said else []
    if asked:
        lines.append(f"{refused} of {asked} messages were refused.")
    ways = (("with the prefix", report.not_refused("prefilled")), ("without it", report.not_refused("plain")))
    tried = [f"{_percent(done)} {name}" for name, done in ways if done is not None]
    if tried:
        lines.append(f"Asked to compare, {' and '.join(tried)} were no refusal.")
    return " ".join(lines)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def as_dict(report: MixReport | GuardReport | None) -> dict[str, Any]:
    """The report as plain data: `mixing` or `guard`, empty for a run of another method."""
    if report is None:
        return {}
    if isinstance(report, MixReport):
        whole = report.all.as_dict()
        parts = {"by_alpha": report.by_alpha, "by_pair": report.by_pair}
        return {
            "mixing": {**whole, "all": whole, **{key: [one.as_dict() for one in rows] for key, rows in parts.items()}}
        }
    rates = {how: report.not_refused(how) for how in ("prefilled", "plain")}
    paper = {"prefilled": WITH_PREFIX, "plain": WITHOUT_PREFIX}
    return {"guard": {**report.model_dump(mode="json"), "not_refused": rates, "not_refused_in_paper": paper}}


def method_report(lake: Lake, run_id: str, counts: Mapping[str, int] | None = None) -> MixReport | GuardReport | None:
    """Whichever report the run has; `counts` as for `guard_report`."""
    return mix_report(lake, run_id) or guard_report(lake, run_id, counts)
