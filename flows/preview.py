"""`graft preview`: a few rows through the whole pipeline before a run, and the measured cost of the rest.

Nothing is published. The run that follows finds the calls in the journal.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from graft.agents.methods import method_of
from graft.data.explain import explain
from graft.data.lake import Lake
from graft.flows.batches import at_most
from graft.flows.pilot import run_pilot
from graft.flows.plan import read_recipe
from graft.flows.run_context import run_lock
from graft.schemas.base import Value, stable_hash
from graft.schemas.home import Home
from graft.schemas.intervals import wilson
from graft.schemas.money import money
from graft.schemas.recipe import Recipe
from graft.schemas.sections import Column, Section, Table
from graft.schemas.shown import Shown

LEAST_ACCEPTED = 0.01
"""Share of accepted candidates that a projection assumes at least."""


SENT = """
    SELECT count(*) AS calls, epoch(max("at")) - epoch(min("at")) + avg(latency_s) AS seconds FROM lake.calls
    WHERE run_id = ? AND NOT cached"""


class Part(Value):
    """Candidates of one kind: measured on the preview, projected to the target.

    A projected number is a triple: expected, fewest and most by the 95% interval of the accepted share.
    """

    kind: str
    candidates: int
    accepted: int
    projected: tuple[int, int, int]
    calls: float
    tokens: float
    price_usd: float | None
    local: bool = False


class Preview(Shown, Value):
    """A preview's rows with their whole history, and the projection to the recipe's target."""

    dataset: str
    rows: tuple[dict[str, Any], ...]
    parts: tuple[Part, ...]
    wanted: int
    prepared: int
    seconds: float
    sent: int
    stopped: str = ""

    @property
    def calls(self) -> tuple[int, int, int]:
        """Calls of the whole run: expected, fewest and most."""
        return self._sum([part.calls for part in self.parts], self.prepared)

    @property
    def tokens(self) -> tuple[int, int, int]:
        """Tokens of the candidates' calls, likewise."""
        return self._sum([part.tokens for part in self.parts])

    @property
    def price_usd(self) -> tuple[float, float, float] | None:
        """US dollars of the candidates' calls, likewise; None if a price is unknown."""
        prices = [part.price_usd for part in self.parts]
        if None in prices:
            return None
        low, expected, high = (
            sum((price or 0.0) * part.projected[place] for price, part in zip(prices, self.parts, strict=True))
            for place in (1, 0, 2)
        )
        return expected, low, high

    @property
    def minutes(self) -> tuple[float, float, float] | None:
        """Minutes at the preview's speed, likewise; None if most of its replies came from the journal."""
        made = self.prepared + sum(part.calls * part.candidates for part in self.parts)
        if not self.sent or self.sent < made / 2:
            return None
        expected, low, high = (self.seconds / self.sent / 60 * count for count in self.calls)
        return expected, low, high

    def _sum(self, each: Sequence[float], more: int = 0) -> tuple[int, int, int]:
        totals = [
            more + round(sum(one * part.projected[place] for one, part in zip(each, self.parts, strict=True)))
            for place in range(3)
        ]
        return totals[0], totals[1], totals[2]

    def shown(self) -> dict[str, object]:
        """See Shown."""
        accepted, seen = sum(part.accepted for part in self.parts), sum(part.candidates for part in self.parts)
        return {"dataset": self.dataset, "accepted": f"{accepted} of {seen}", "whole run": self.summary()}

    def section(self) -> Section:
        """The projection as a table."""
        columns = (
            Column("kind", "candidates"), Column("seen", "accepted here"), Column("needed", "for the target"),
            Column("calls", "calls each", "number", 1), Column("tokens", "tokens each", "number"),
            Column("price", "price each", "money"),
        )  # fmt: skip
        rows = [
            {"kind": part.kind, "seen": f"{part.accepted} of {part.candidates}", "needed": span(part.projected),
             "calls": part.calls, "tokens": part.tokens, "price": part.price_usd, "local": part.local}
            for part in self.parts
        ]  # fmt: skip
        return Section(
            name="preview", title="Projection", text=self.summary(), facts=(), notes=self.notes(),
            tables=(Table("preview", "", columns, rows, empty="no candidate was opened"),),
        )  # fmt: skip

    def summary(self) -> str:
        """The whole run in one sentence."""
        price, minutes = self.price_usd, self.minutes
        cost = f"price {money(price and price[0], all(part.local for part in self.parts))}"
        took = "time unknown: the replies came from the journal" if minutes is None else f"{span(minutes)} minutes"
        goal = f"{self.wanted:,} rows" if self.wanted else "all texts"
        return f"For {goal}: about {span(self.calls)} calls, {span(self.tokens)} tokens, {cost}, {took} at this speed."

    def notes(self) -> tuple[str, ...]:
        """Notes on the figures."""
        few = "ranges in parentheses: the 95% interval of the accepted share, which few candidates leave wide"
        once = f"{self.prepared} calls calibrated judges, once a run; " if self.prepared else ""
        again = f"{once}the run finds every call of this preview in the journal".capitalize()
        return tuple(filter(None, (self.stopped, few, again)))

    def _repr_html_(self) -> str:
        """The rows as a table, for notebooks."""
        names = ("status", "label", "text", "response", "reason", "columns")
        head = "".join(f"<th>{name}</th>" for name in names)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(str(cell or ''))}</td>" for cell in cells_of(row)) + "</tr>"
            for row in self.rows
        )
        return f"<table><tr>{head}</tr>{body}</table><p>{html.escape(self.summary())}</p>"


def read_preview(result: Mapping[str, Any]) -> Preview:
    """The preview that `graft preview --json` printed."""
    return Preview.model_validate({name: result[name] for name in Preview.model_fields})


def cells_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """Status, label, text, response, reason and further columns of a row's history."""
    decision = row["decision"] or {}
    columns = "\n".join(f"{name}: {text}" for name, text in [*row.get("meant", ()), *row.get("columns", ())])
    return decision.get("status"), row["label"], row["text"], row.get("response"), decision.get("reason"), columns


def span(numbers: Sequence[float]) -> str:
    """`400 (250 to 900)`: expected, fewest and most; one number if they are the same."""
    digits = 0 if max(numbers) >= 10 else 1
    expected, low, high = (f"{number:,.{digits}f}" for number in numbers)
    return expected if low == high else f"{expected} ({low} to {high})"


async def preview(name: str, rows: int = 5, *, restricted: bool = False) -> Preview:
    """Make `rows` candidates of the recipe with that path or name, and project the rest.

    Args:
        name: path of a recipe, or the bare name of one
        rows: candidates, about as many of each label; besides as many of the user's texts, if the method labels them
        restricted: show texts of restricted rows

    Raises:
        GraftError: as `graft run`.
    """
    file, recipe, seeds = read_recipe(name)
    home, method = Home.find(), method_of(recipe)

    def read(lake: Lake, run: dict[str, Any]) -> tuple[list[dict[str, Any]], float, int]:
        found = sorted(
            lake.iter_candidates(run["id"]), key=lambda one: (one.slot.round, one.slot.shard, one.slot.index)
        )
        (sent,) = lake.query(SENT, [run["id"]])
        histories = [explain(lake, one.id, restricted=restricted) for one in found]
        return histories, float(sent["seconds"] or 0.0), int(sent["calls"])

    work = f"{recipe.name}-preview-{stable_hash(recipe.model_dump(mode='json'), rows)[:12]}"
    with run_lock(home, work):
        small = method.preview(recipe, rows)
        (histories, seconds, sent), run = await run_pilot(small, file, seeds, home, work, read)
    return Preview(
        dataset=recipe.name, rows=tuple(histories), parts=_parts(recipe, histories, len(at_most(recipe, file))),
        wanted=sum(method.wanted(recipe).values()), sent=sent, seconds=seconds, stopped=run["stopped"],
        prepared=max(0, run["calls"] - sum(len(one["calls"]) for one in histories)),
    )  # fmt: skip


def _parts(recipe: Recipe, histories: Sequence[dict[str, Any]], texts: int) -> tuple[Part, ...]:
    """The user's texts, all of which are labelled, and the rows that are written until the target is reached."""
    given = [one for one in histories if one["source"] == "labelled"]
    written = [one for one in histories if one["source"] != "labelled"]
    parts, left = list[Part](), sum(method_of(recipe).wanted(recipe).values())
    if given:
        parts.append(_part("your texts", given, (texts, texts, texts)))
        left = max(0, left - round(texts * parts[0].accepted / len(given)))
    if written:
        left = recipe.made({"": left})[""]
        accepted = sum(_accepted(one) for one in written)
        low, high = wilson(accepted, len(written))
        each = (accepted / len(written), high, low)
        expected, fewest, most = (
            min(recipe.limits.candidates, math.ceil(left / max(share, LEAST_ACCEPTED))) for share in each
        )
        parts.append(_part("written rows", written, (expected, fewest, most)))
    return tuple(parts)


def _part(kind: str, histories: Sequence[dict[str, Any]], projected: tuple[int, int, int]) -> Part:
    count, calls = len(histories), [call for one in histories for call in one["calls"]]
    tokens = sum((call["prompt_tokens"] or 0) + (call["completion_tokens"] or 0) for call in calls)
    prices = [one["price_usd"] for one in histories]
    return Part(
        kind=kind, candidates=count, accepted=sum(map(_accepted, histories)), projected=projected,
        calls=len(calls) / count, tokens=tokens / count, price_usd=None if None in prices else sum(prices) / count,
        local=bool(calls) and all(call["local"] for call in calls),
    )  # fmt: skip


def _accepted(history: dict[str, Any]) -> bool:
    return bool(history["decision"]) and history["decision"]["status"] == "accepted"
