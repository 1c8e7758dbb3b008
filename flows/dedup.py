"""The end of a round: resolve duplicates over all shards in score order and count missing rows."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from graft.agents.methods import Method
from graft.data.gates import Admission
from graft.data.gates.shared.semantic import alike, clusters, drop_semantic_duplicates
from graft.flows.streaming import gate_decision
from graft.schemas.decisions import ACROSS_SHARDS, NOT_BEST, SEMANTIC
from graft.schemas.rows import Candidate, GateResult

Embed = Callable[[Sequence[str]], Any]
"""Maps texts to a float32 array (n x d) of L2-normalised rows."""

SPLIT_COSINE = 0.85
"""Cosine from which rows go to the same split, so that no paraphrase of a test row is trained on."""


async def settle_round(
    kept: Sequence[Candidate],
    new: Sequence[Candidate],
    *,
    method: Method[Any],
    admission: Admission,
    max_cosine: float | None,
    embed: Embed | None,
) -> tuple[list[Candidate], list[Candidate]]:
    """Greedy de-duplication in score order (GRA section 1.6): (accepted, rejected), both by id.

    `kept` are earlier rows, which always stay. Across shards the lexical gates run again, then cosine. Of
    an exclusive group the best row stays: the method accepts one row of it, but two may arrive here if a call failed
    for one slot of the group and not for another.
    """
    text_id = method.text_id
    ordered, dropped = _one_a_group(sorted(new, key=lambda c: (-(c.decision.mean or 0.0), c.id)), kept, method)
    alive: list[Candidate] = []
    for candidate in ordered:
        results = admission.admit(candidate.proposal(text_id(candidate)))
        failed = next((result for result in results if not result.passed), None)
        if failed is None:
            alive.append(candidate)
        else:
            dropped.append(_redecided(candidate, failed, ACROSS_SHARDS))
    if max_cosine is not None and embed is not None and alive:
        fixed = {text_id(candidate) for candidate in kept}
        rows = list({text_id(candidate): candidate for candidate in (*reversed(alive), *kept)}.values())
        vectors = await asyncio.to_thread(embed, [candidate.text for candidate in rows])
        scores = [99.0 if text_id(row) in fixed else row.decision.mean or 0.0 for row in rows]
        hits = drop_semantic_duplicates([text_id(row) for row in rows], vectors, scores, max_cosine)
        for candidate in alive:
            if text_id(candidate) in hits and text_id(candidate) not in fixed:
                dropped.append(_redecided(candidate, alike(*hits[text_id(candidate)]), SEMANTIC))
        gone = {candidate.id for candidate in dropped}
        alive = [candidate for candidate in alive if candidate.id not in gone]
    return alive, dropped


def choose(candidates: Sequence[Candidate], wanted: dict[str, int]) -> tuple[list[Candidate], int]:
    """The rows to publish, best scores of each label up to the target: (chosen, surplus)."""
    by_label: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in sorted(candidates, key=lambda c: (-(c.decision.mean or 0.0), c.id)):
        by_label[candidate.label].append(candidate)
    chosen = [candidate for label, count in wanted.items() for candidate in by_label[label][:count]]
    return chosen, len(candidates) - len(chosen)


def missing(candidates: Sequence[Candidate], wanted: dict[str, int]) -> dict[str, int]:
    """Label to number of missing rows; complete labels are left out."""
    have: dict[str, int] = defaultdict(int)
    for candidate in candidates:
        have[candidate.label] += 1
    return {label: count - have[label] for label, count in wanted.items() if have[label] < count}


async def split_clusters(candidates: Sequence[Candidate], method: Method[Any], embed: Embed | None) -> dict[str, str]:
    """Candidate id to a cluster of near-duplicates; without embeddings every text is its own cluster."""
    texts = {method.text_id(candidate): candidate.text for candidate in candidates}
    found = {name: name for name in texts}
    if embed is not None and texts:
        vectors = await asyncio.to_thread(embed, list(texts.values()))
        found = {name: str(cluster) for name, cluster in clusters(list(texts), vectors, SPLIT_COSINE).items()}
    return {candidate.id: found[method.text_id(candidate)] for candidate in candidates}


def _one_a_group(
    ordered: Sequence[Candidate], kept: Sequence[Candidate], method: Method[Any]
) -> tuple[list[Candidate], list[Candidate]]:
    """Split rows into the first of each exclusive group (without a row in `kept`) with all other rows, and the rest.

    Rows of a group may share a text, so a gate that accepts the first would accept the others too.
    """
    answered = {method.one_of(candidate.slot) for candidate in kept}
    first, others = list[Candidate](), list[Candidate]()
    for candidate in ordered:
        group = method.one_of(candidate.slot)
        if group and group in answered:
            reason = f"{candidate.decision.reason} Another response to the same instruction is kept."
            update = {"status": "rejected", "code": NOT_BEST, "reason": reason}
            others.append(candidate.model_copy(update={"decision": candidate.decision.model_copy(update=update)}))
        else:
            first.append(candidate)
            answered.add(group)
    return first, others


def _redecided(candidate: Candidate, failed: GateResult, code: str) -> Candidate:
    decision = gate_decision(candidate, failed, code)
    return candidate.model_copy(update={"gates": (*candidate.gates, failed), "decision": decision})
