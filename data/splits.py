"""Train, validation and test: stratified by label, the same on every machine, near-duplicates in one split."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import get_args

from graft.schemas.base import stable_hash
from graft.schemas.datasets import SplitName
from graft.schemas.recipe import Splits

ORDER: tuple[SplitName, ...] = get_args(SplitName)


def assign_splits(rows: Iterable[tuple[str, str, str, str]], splits: Splits, seed: int) -> dict[str, SplitName]:
    """Row id to split, for rows of (id, text, label, cluster_id); an empty cluster id means a single row.

    All rows of a cluster go to one split. Where clusters are single rows, each label's counts are within one row of
    the exact shares. The order of `rows` does not matter. Raises ValueError if an id occurs twice.
    """
    clusters: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    seen: set[str] = set()
    for row_id, _, label, cluster in rows:
        if row_id in seen:
            raise ValueError(f"row {row_id!r} occurs twice")
        seen.add(row_id)
        clusters[f"c {cluster}" if cluster else f"r {row_id}"].append((row_id, label))
    needed = _targets(Counter(label for members in clusters.values() for _, label in members), splits)
    open_splits = [name for name in ORDER if getattr(splits, name) > 0]
    assigned: dict[str, SplitName] = {}
    for _, members in sorted(clusters.items(), key=lambda item: _rank(item, seed)):
        labels = Counter(label for _, label in members)
        split = max(open_splits, key=lambda name: sum(n * needed[label, name] for label, n in labels.items()))
        for row_id, label in members:
            assigned[row_id] = split
            needed[label, split] -= 1
    return assigned


def joined(clusters: Mapping[str, str], keys: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Row id to cluster, where rows that share a key are in one cluster too, and with them their clusters.

    Args:
        clusters: row id to cluster id; an empty one means a single row
        keys: row id to its keys, such as the documents that it rests on; rows may be left out
    """
    above: dict[str, str] = {}

    def top(name: str) -> str:
        while (up := above.get(name, name)) != name:
            above[name] = name = above.get(up, up)
        return name

    own = {row: f"c {cluster}" if cluster else f"r {row}" for row, cluster in clusters.items()}
    for row in own:
        for key in keys.get(row, ()):
            ends = sorted((top(own[row]), top(f"k {key}")))
            above[ends[1]] = ends[0]
    keyed = {top(f"k {key}") for row in own for key in keys.get(row, ())}
    return {row: top(name) if top(name) in keyed else clusters[row] for row, name in own.items()}


def _rank(item: tuple[str, list[tuple[str, str]]], seed: int) -> tuple[int, str]:
    """Large clusters first, while there is room for them; otherwise by hash."""
    _, members = item
    return (-len(members), stable_hash(seed, min(row_id for row_id, _ in members), length=32))


def _targets(labels: Counter[str], splits: Splits) -> dict[tuple[str, SplitName], int]:
    """Rows of each label in each split, by largest remainder: whole numbers that add up."""
    targets: dict[tuple[str, SplitName], int] = {}
    for label, total in labels.items():
        exact = {name: getattr(splits, name) * total for name in ORDER}
        floors = {name: int(exact[name] + 1e-9) for name in ORDER}
        by_remainder = sorted(ORDER, key=lambda name: (-(exact[name] - floors[name]), ORDER.index(name)))
        for name in by_remainder[: total - sum(floors.values())]:
            floors[name] += 1
        targets |= {(label, name): count for name, count in floors.items()}
    return targets
