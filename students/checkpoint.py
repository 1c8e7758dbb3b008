"""The checkpoint that a killed training resumes from: one file, written beside and renamed. Loads torch.

It holds only values that torch reads without running code: tensors, numbers, strings, lists and dicts.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

NAME = "checkpoint.pt"

EVERY = 5.0
"""Seconds between two checkpoints at least: a short training writes none."""

SHARE = 0.05
"""Largest share of the training time spent on writing them, judged by the last write."""

_BROKEN = (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, UnpicklingError)


class Checkpoint:
    """The checkpoint in a folder; without a folder it holds nothing and is never due.

    `facts` identify the training (name to value): a checkpoint with other facts is ignored, with a message. A read-only
    checkpoint is for the processes of a group that do not write it.
    """

    def __init__(
        self, folder: Path | None, facts: Mapping[str, str], say: Callable[[str], None], only_reads: bool = False
    ) -> None:
        self._file = folder / NAME if folder else None
        self._facts, self._say, self._only_reads = dict(facts), say, only_reads
        self._next = time.monotonic() + EVERY

    @property
    def due(self) -> bool:
        """True if a checkpoint is due."""
        return self._file is not None and not self._only_reads and time.monotonic() >= self._next

    def load(self) -> dict[str, Any] | None:
        """The last saved state of a training with the same facts, its tensors on the CPU; None if there is none."""
        if self._file is None or not self._file.is_file():
            return None
        try:
            found = torch.load(self._file, map_location="cpu", weights_only=True)
            facts, state = dict(found["facts"]), dict(found["state"])
        except _BROKEN:
            self._say("the checkpoint of an earlier training cannot be read: starting again")
            return None
        if other := [name for name, value in self._facts.items() if facts.get(name) != value]:
            self._say(f"the checkpoint of an earlier training has another {', '.join(other)}: starting again")
            return None
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the state, whole or not at all. If that fails (no space), training continues without, with a
        message."""
        if self._file is None:
            return
        started, beside = time.monotonic(), self._file.with_suffix(".new")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"facts": self._facts, "state": dict(state)}, beside)
            beside.replace(self._file)
        except (OSError, RuntimeError) as error:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            self._say(f"no checkpoint could be written, training continues without: {str(error).splitlines()[0][:200]}")
            self._file = None
            return
        ended = time.monotonic()
        self._next = ended + max(EVERY, (ended - started) / SHARE)

    def remove(self) -> None:
        """Remove it, and the folder if nothing else is in it."""
        if self._file is None or self._only_reads:
            return
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)
            self._file.parent.rmdir()
