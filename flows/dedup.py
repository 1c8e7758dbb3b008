"""The end of a round: resolve duplicates over all shards in score order and count missing rows."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from graft.agents.methods import Method
from graft.data.gates import Admission
from graft.data.gates.shared.semantic import alike, clusters, drop_semantic_duplicates
from graft.data.splits import joined
from graft.flows.streaming import gate_decision
from graft.schemas.decisions import ACROSS_SHARDS, NOT_BEST, SEMANTIC
from graft.schemas.documents import document_of
from graft.schemas.rows import Accepted, Candidate, GateResult, Route

if TYPE_CHECKING:
    from graft.data.lake import Lake

Embed = Callable[[Sequence[str]], Any]
"""Maps texts to a float32 array (n x d) of L2-normalised rows."""

SPLIT_COSINE = 0.85
"""Cosine from which rows go to the same split, so that no paraphrase of a test row is trained on."""
NEAR_ACROSS = (
    "rows of different documents are near-duplicates of each other: splits keep each document together, and such rows "
    "may be in different splits"
)
"""The note on a version whose documents could not be kept apart by meaning too."""
REDECIDED = 1_000
"""Rejected rows that are rewritten in one commit."""


class Dropped(NamedTuple):
    """An accepted row that is not published: the gate's result where it repeats a better one, else the reason."""

    id: str
    failed: GateResult | None
    code: str
    why: str = "Another response to the same instruction is kept."
    route: Route | None = None


async def settle_round(
    kept: Sequence[Accepted],
    new: Sequence[Accepted],
    *,
    method: Method[Any],
    admission: Admission,
    max_cosine: float | None,
    embed: Embed | None,
) -> tuple[list[Accepted], list[Dropped]]:
    """Greedy de-duplication in score order (GRA section 1.6): rows that stay, and the others.

    `kept` are earlier rows, which always stay. Across shards the lexical gates run again, then cosine. Of
    an exclusive group the best row stays: the method accepts one row of it, but two may arrive here if a call failed
    for one slot of the group and not for another.
    """
    text_id = method.text_id
    ordered, dropped = _one_a_group(sorted(new, key=lambda row: (-row.mean, row.id)), kept, method)
    alive: list[Accepted] = []
    for row in ordered:
        results = admission.admit(row.proposal(text_id(row)))
        failed = next((result for result in results if not result.passed), None)
        if failed is None:
            alive.append(row)
        else:
            dropped.append(Dropped(row.id, failed, ACROSS_SHARDS))
    if max_cosine is not None and embed is not None and alive:
        fixed = {text_id(row) for row in kept}
        rows = list({text_id(row): row for row in (*reversed(alive), *kept)}.values())
        vectors = await asyncio.to_thread(embed, [row.text for row in rows])
        scores = [99.0 if text_id(row) in fixed else row.mean for row in rows]
        hits = drop_semantic_duplicates([text_id(row) for row in rows], vectors, scores, max_cosine)
        for row in alive:
            if text_id(row) in hits and text_id(row) not in fixed:
                dropped.append(Dropped(row.id, alike(*hits[text_id(row)]), SEMANTIC))
        gone = {row.id for row in dropped}
        alive = [row for row in alive if row.id not in gone]
    return alive, dropped


def redecide(lake: Lake, run_id: str, dropped: Sequence[Dropped]) -> None:
    """Record in the lake that these rows are rejected, and why; a thousand whole candidates at a time."""
    for begin in range(0, len(dropped), REDECIDED):
        why = {drop.id: drop for drop in dropped[begin : begin + REDECIDED]}
        found = [one for one in lake.named(run_id, list(why)) if one.decision.code != why[one.id].code]
        lake.redecide(run_id, [redecided(candidate, why[candidate.id]) for candidate in found])


def redecided(candidate: Candidate, drop: Dropped) -> Candidate:
    """The candidate with the decision that follows from its drop."""
    if drop.failed is not None:
        decision = gate_decision(candidate, drop.failed, drop.code)
        return candidate.model_copy(update={"gates": (*candidate.gates, drop.failed), "decision": decision})
    route = drop.route or candidate.decision.route
    reason = f"{candidate.decision.reason} {drop.why}"
    update = {"status": "rejected", "route": route, "code": drop.code, "reason": reason}
    return candidate.model_copy(update={"decision": candidate.decision.model_copy(update=update)})


def choose(rows: Sequence[Accepted], wanted: dict[str, int]) -> tuple[list[Accepted], int]:
    """The rows to publish, best scores of each label up to the target: (chosen, surplus)."""
    by_label: dict[str, list[Accepted]] = defaultdict(list)
    for row in sorted(rows, key=lambda one: (-one.mean, one.id)):
        by_label[row.label].append(row)
    chosen = [row for label, count in wanted.items() for row in by_label[label][:count]]
    return chosen, len(rows) - len(chosen)


def missing(rows: Sequence[Accepted], wanted: dict[str, int]) -> dict[str, int]:
    """Label to number of missing rows; complete labels are left out."""
    have: dict[str, int] = defaultdict(int)
    for row in rows:
        have[row.label] += 1
    return {label: count - have[label] for label, count in wanted.items() if have[label] < count}


async def split_clusters(
    rows: Sequence[Accepted], method: Method[Any], embed: Embed | None, most: float = 1.0
) -> tuple[dict[str, str], str]:
    """Row id to the cluster of rows that go to one split: near-duplicates, and rows drawn from a document. And a note.

    Without embeddings every text is its own cluster. Near-duplicates may link documents until hardly any row is left
    for other splits: if the largest cluster has over `most` of the rows, documents alone decide about their rows, and
    the note says so.
    """
    texts = {method.text_id(row): row.text for row in rows}
    found = {name: name for name in texts}
    if embed is not None and texts:
        vectors = await asyncio.to_thread(embed, list(texts.values()))
        found = {name: str(cluster) for name, cluster in clusters(list(texts), vectors, SPLIT_COSINE).items()}
    alike = {row.id: found[method.text_id(row)] for row in rows}
    documents = {row.id: [*filter(None, [document_of(row.data)])] for row in rows}
    groups = {row.id: [row.group] if method.one_split and row.group else [] for row in rows}
    whole = {name: [*hashes, *groups[name]] for name, hashes in documents.items()}
    linked = joined(alike, whole)
    if not any(documents.values()) or max(Counter(linked.values()).values()) <= most * len(rows):
        return linked, ""
    apart = joined({name: "" if documents[name] else cluster for name, cluster in alike.items()}, whole)
    return apart, NEAR_ACROSS if apart != linked else ""


def _one_a_group(
    ordered: Sequence[Accepted], kept: Sequence[Accepted], method: Method[Any]
) -> tuple[list[Accepted], list[Dropped]]:
    """Split rows into the first of each exclusive group (without a row in `kept`) with all other rows, and the rest.

    Rows of a group may share a text, so a gate that accepts the first would accept the others too.
    """
    answered = {method.one_of(row) for row in kept}
    first, others = list[Accepted](), list[Dropped]()
    for row in ordered:
        group = method.one_of(row)
        if group and group in answered:
            others.append(Dropped(row.id, None, NOT_BEST))
        else:
            first.append(row)
            answered.add(group)
    return first, others
