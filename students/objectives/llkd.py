"""LLKD (arXiv 2411.08028): cross-entropy of rows whose teacher is sure and whose student is not, weighted by both.

The teacher labels texts once; its confidence is its probability of the row's label. The student's uncertainty is the
entropy of its own softmax, over that of an even one. Both thresholds move while it trains: an average over batches,
scaled for each label by that label's own average. We could not read the paper's formulas: the averages are those of
self-adaptive thresholding, and the weight, the mean of confidence and uncertainty, is ours. Uncertainty is of the
forward pass that the row is learned from.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import Field

from graft.schemas.errors import GraftError
from graft.schemas.students import ObjectiveSettings, StudentSettings
from graft.students.heads import Head
from graft.students.objectives.cross_entropy import CrossEntropy
from graft.students.rows import TrainRow

if TYPE_CHECKING:
    from torch import Tensor

    from graft.students.classifier import TextClassifier

LISTED = 12
"""Labels of a pass's report, those of the smallest share first."""


class LlkdSettings(ObjectiveSettings):
    """The block `student.objective` in a recipe."""

    kind: Literal["llkd"] = "llkd"
    momentum: float = Field(default=0.9, ge=0, lt=1, description="weight of earlier batches in the moving thresholds")


class Moving:
    """A threshold of each label: the moving mean over all rows, times the label's own over the largest label's."""

    def __init__(self, momentum: float) -> None:
        self._momentum = momentum
        self.mean: float | None = None
        self.of_label: dict[str, float] = {}

    def move(self, values: Sequence[tuple[str, float]]) -> None:
        """Take in a batch's (label, value) pairs; the first value of a mean is taken as it is."""
        if not values:
            return
        self.mean = self._moved(self.mean, [value for _, value in values])
        for label in dict.fromkeys(label for label, _ in values):
            own = [value for other, value in values if other == label]
            self.of_label[label] = self._moved(self.of_label.get(label), own)

    def threshold(self, label: str) -> float:
        """The least value of a row of this label; 0 before any was seen."""
        if self.mean is None:
            return 0.0
        highest = max(self.of_label.values())
        return self.mean * (self.of_label.get(label, highest) / highest if highest else 1.0)

    def _moved(self, before: float | None, values: Sequence[float]) -> float:
        now = math.fsum(values) / len(values)
        return now if before is None else self._momentum * before + (1 - self._momentum) * now


class Llkd(CrossEntropy):
    """The weighted mean over the selected rows of each batch; on validation rows, plain cross-entropy.

    A row without a soft label has a sure teacher. A label of which no row was selected for as many rows as it has keeps
    its best row of a batch, and so does a batch that would select nothing. Processes that train together each follow
    their own share of the batches.
    """

    Settings: ClassVar[type[ObjectiveSettings]] = LlkdSettings
    soft_labels = True

    def __init__(self, head: Head, settings: StudentSettings, rows: Sequence[TrainRow]) -> None:
        super().__init__(head, settings, rows)
        momentum = cast(LlkdSettings, self.own).momentum
        self._teacher, self._student = Moving(momentum), Moving(momentum)
        self._rows = Counter(row.label for row in rows)
        self._waiting: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()
        self._used: Counter[str] = Counter()

    @classmethod
    def check(cls, head: Head, settings: StudentSettings) -> None:
        """As every objective's; soft labels are signals here and no target."""
        super().check(head, settings)
        if settings.soft_weight:
            raise GraftError(
                "llkd learns labels, and takes soft labels as its teacher's confidence alone",
                where="student.soft_weight", fix="set it to 0, or use objective: {kind: distillation}",
            )  # fmt: skip

    def loss(self, model: TextClassifier, batch: Sequence[TrainRow], step: int) -> Tensor:
        """In nats."""
        import torch
        from torch.nn import functional

        logits = model([row.text for row in batch]).float()
        if not model.training:
            return self._of(logits, batch)
        shares = logits.detach().softmax(-1)
        entropy = torch.special.entr(shares).sum(-1) / math.log(len(self._places))
        weights = torch.tensor(self.weights(batch, entropy.tolist()), device=logits.device)
        wanted = torch.tensor([self._places[row.label] for row in batch], device=logits.device)
        each = functional.cross_entropy(logits, wanted, reduction="none")
        if self._weights is not None:
            each = each * torch.tensor(self._weights).to(logits.device)[wanted]
        return (each * weights).sum() / weights.sum()

    def weights(self, batch: Sequence[TrainRow], unsure: Sequence[float]) -> list[float]:
        """Move the thresholds by a batch and return each row's weight, 0 if it is not selected.

        `unsure` has the student's uncertainty of each row, 0 to 1.
        """
        sure = [1.0 if row.soft is None else row.soft[self._places[row.label]] for row in batch]
        taught = [(row.label, value) for row, value in zip(batch, sure, strict=True) if row.soft is not None]
        self._teacher.move(taught)
        self._student.move([(row.label, value) for row, value in zip(batch, unsure, strict=True)])
        both = [(one + other) / 2 for one, other in zip(sure, unsure, strict=True)]
        chosen = {
            at for at, row in enumerate(batch)
            if (row.soft is None or sure[at] >= self._teacher.threshold(row.label))
            and unsure[at] >= self._student.threshold(row.label)
        }  # fmt: skip
        chosen |= self._starved(batch, chosen, both)
        for at, row in enumerate(batch):
            self._seen[row.label] += 1
            self._used[row.label] += at in chosen
        return [max(both[at], 1e-6) if at in chosen else 0.0 for at in range(len(batch))]

    def _starved(self, batch: Sequence[TrainRow], chosen: set[int], both: Sequence[float]) -> set[int]:
        """The best row of each label that has waited too long; of the whole batch if nothing is chosen otherwise."""
        more = set[int]()
        for label in dict.fromkeys(row.label for row in batch):
            own = [at for at, row in enumerate(batch) if row.label == label]
            self._waiting[label] = 0 if chosen & set(own) else self._waiting[label] + len(own)
            if self._waiting[label] >= self._rows[label]:
                more.add(max(own, key=lambda at: both[at]))
                self._waiting[label] = 0
        return more if chosen or more else {max(range(len(batch)), key=lambda at: both[at])}

    def after_pass(self) -> str:
        """The share of rows that were selected in the pass, of all and of each label."""
        if not self._seen:
            return ""
        whole, used = self._seen.total(), self._used.total()
        shares = sorted(self._seen, key=lambda label: (self._used[label] / self._seen[label], label))
        each = ", ".join(f"{label} {self._used[label]} of {self._seen[label]}" for label in shares[:LISTED])
        self._seen.clear()
        self._used.clear()
        return f"rows selected in the last pass: {used / whole:.0%} ({each})"

    def state(self) -> dict[str, Any]:
        """Thresholds and counts."""
        return {
            "teacher": (self._teacher.mean, dict(self._teacher.of_label)),
            "student": (self._student.mean, dict(self._student.of_label)),
            "counts": [dict(one) for one in (self._waiting, self._seen, self._used)],
        }  # fmt: skip

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from an earlier state."""
        self._teacher.mean, self._teacher.of_label = state["teacher"][0], dict(state["teacher"][1])
        self._student.mean, self._student.of_label = state["student"][0], dict(state["student"][1])
        self._waiting, self._seen, self._used = (Counter(one) for one in state["counts"])


KIND = Llkd
