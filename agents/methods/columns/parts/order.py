"""The order of steps: it follows from what they read. Steps that cost nothing run as soon as they can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Node(NamedTuple):
    """A step for the order. `place` is its place in the recipe, `costly` whether it calls models."""

    name: str
    reads: frozenset[str]
    costly: bool
    place: int


def waves(nodes: Sequence[Node]) -> tuple[tuple[str, ...], ...]:
    """The steps in waves: a wave's steps may run at once, and every wave reads only earlier ones.

    A step without calls is a wave of its own and comes as soon as its columns are there, so that it can end a candidate
    before the next call. Calls that read none of each other, with no such step between them, are one wave. Of equal
    steps the earlier in the recipe is first. Steps of a circle are left out.
    """
    left, done, found = list(nodes), set[str](), list[list[Node]]()
    while ready := [node for node in left if node.reads <= done]:
        first = min(ready, key=lambda node: (node.costly, node.place))
        left.remove(first)
        done.add(first.name)
        last = found[-1] if found else []
        beside = last and first.costly and last[0].costly and not first.reads & {node.name for node in last}
        if beside:
            last.append(first)
        else:
            found.append([first])
    return tuple(tuple(node.name for node in wave) for wave in found)


def circle(reads: Mapping[str, frozenset[str]]) -> list[str]:
    """The steps of one circle, in reading order; empty if there is none."""
    left = dict(reads)
    while free := [name for name, of in left.items() if not of & left.keys()]:
        for name in free:
            del left[name]
    if not left:
        return []
    path = [min(left)]
    while (after := min(left[path[-1]] & left.keys())) not in path:
        path.append(after)
    return path[path.index(after) :]


def reached(reads: Mapping[str, frozenset[str]], start: str) -> frozenset[str]:
    """The steps that a step reads, directly or through others."""
    seen, ahead = set[str](), [start]
    while ahead:
        more = reads.get(ahead.pop(), frozenset()) - seen
        seen |= more
        ahead += more
    return frozenset(seen)
