"""The model card of an exported student, in Markdown: counts and names, never a row's text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from graft.data.scores.answers import VALIDATION
from graft.schemas.datasets import DatasetVersion
from graft.schemas.students import Evaluation, Student
from graft.students.heads import Rule

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~$@:.=-])")
_SOFTMAX = """\
shares = numpy.exp(logits - logits.max(1, keepdims=True))
shares /= shares.sum(1, keepdims=True)
print([(facts["labels"][row.argmax()], round(float(row.max()), 4)) for row in shares])
"""
_TORCH_SOFTMAX = """\
shares = logits.softmax(-1)
print([(facts["labels"][int(row.argmax())], round(float(row.max()), 4)) for row in shares])
"""
_ABOVE = """\
least = facts["multi_label"]  # each label's threshold
print([{name: round(float(p), 4) for name, p in zip(facts["labels"], row) if p > least[name]} for row in shares])
"""
FEW_ROWS = 300
"""A held-out file below this many rows is called small: its accuracy is known to about 5 points at best."""

ONNX_SNIPPET = """\
import json
from pathlib import Path

import numpy
import onnxruntime
from tokenizers import Tokenizer

folder = Path(".")  # this folder
facts = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.enable_truncation(facts["max_length"])
tokenizer.enable_padding(**facts["padding"])
session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])

found = tokenizer.encode_batch(["where is my parcel?", "I was charged twice"])
columns = {
    "input_ids": [one.ids for one in found],
    "attention_mask": [one.attention_mask for one in found],
    "token_type_ids": [one.type_ids for one in found],
}
feed = {given.name: numpy.array(columns[given.name], dtype="int64") for given in session.get_inputs()}
logits = session.run(["logits"], feed)[0] / facts["temperature"]
shares = numpy.exp(logits - logits.max(1, keepdims=True))
shares /= shares.sum(1, keepdims=True)
print([(facts["labels"][row.argmax()], round(float(row.max()), 4)) for row in shares])
"""
"""For a student with one label per text."""

TORCH_SNIPPET = """\
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

folder = Path(".")  # this folder
facts = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
encoder = AutoModel.from_pretrained(folder, trust_remote_code=False, use_safetensors=True).eval()
layer = load_file(folder / "head.safetensors")

texts = ["where is my parcel?", "I was charged twice"]
batch = tokenizer(texts, padding=True, truncation=True, max_length=facts["max_length"], return_tensors="pt")
with torch.inference_mode():
    states = encoder(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    pooled = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    logits = (pooled @ layer["weight"].T + layer["bias"]) / facts["temperature"]
shares = logits.softmax(-1)
print([(facts["labels"][int(row.argmax())], round(float(row.max()), 4)) for row in shares])
"""

MANY_ONNX_SNIPPET = ONNX_SNIPPET.replace(_SOFTMAX, "shares = 1 / (1 + numpy.exp(-logits))\n" + _ABOVE)
MANY_TORCH_SNIPPET = TORCH_SNIPPET.replace(_TORCH_SOFTMAX, "shares = logits.sigmoid()\n" + _ABOVE)
"""For a student with any number of labels per text; its temperature is 1."""


@dataclass(frozen=True)
class Origin:
    """Origin of a student. `models` is the version card's section on models and terms, already inert Markdown.

    `version` is None for a student that learned from the seeds only. `seeds_licence` and `encoder_licence` may be
    empty: not stated. `restricted` counts rows of the version that are harmful by design.
    """

    task: str
    language: str
    seeds: int
    labels: Sequence[str]
    max_length: int
    seeds_licence: str = ""
    encoder_licence: str = ""
    version: DatasetVersion | None = None
    models: str = ""
    restricted: int = 0
    description: str = ""


@dataclass(frozen=True)
class Judgements:
    """A student's evaluations, and those of the student that learned from the seeds only."""

    own: Sequence[Evaluation]
    baseline: Sequence[Evaluation] = field(default=())

    @property
    def held_out(self) -> list[Evaluation]:
        """Of files that are not the version's own validation rows."""
        return [one for one in self.own if one.test_file != VALIDATION]

    def beside(self, evaluation: Evaluation) -> Evaluation | None:
        """The seeds-only student on the same rows."""
        return next((one for one in self.baseline if one.test_hash == evaluation.test_hash), None)


def plain(text: str, limit: int = 300) -> str:
    """The text as one line of Markdown that shows as itself: no markup, link, HTML or table cell comes of it."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    line = line if len(line) <= limit else line[: limit - 1] + "…"
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", line)


def render_model_card(student: Student, origin: Origin, judged: Judgements, rule: Rule, difference: float) -> str:
    """The card in Markdown. `difference` is the largest one of a logit between ONNX and PyTorch."""
    parts = [
        f"# {plain(student.dataset)}: student {plain(student.id)}",
        _what(student, origin),
        _learned(student, origin),
        origin.models if origin.version is not None else "",
        _judged(judged),
        _classes(judged),
        _calibration(judged, rule, _many(student)),
        _use(student, origin, judged),
        _loading(rule, difference, _many(student)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _what(student: Student, origin: Origin) -> str:
    about = f"{plain(origin.description, 2_000)}\n\n" if origin.description else ""
    licence = plain(origin.encoder_licence) or "not stated"
    alone = ", each on its own: a text may have several labels, or none" if _many(student) else ""
    return (
        f"{about}A {plain(origin.task)} model: a text goes in, a probability for each of {len(origin.labels)} labels "
        f"comes out{alone}. It is the encoder {plain(_last(student.settings.encoder))} (licence: {licence}; weights "
        f"{plain(student.encoder_revision)}), the mean over its tokens, normalised, and one linear layer.\n\n"
        f"Labels: {', '.join(plain(label) for label in origin.labels)}."
    )


def _learned(student: Student, origin: Origin) -> str:
    licence = plain(origin.seeds_licence) or "not stated"
    version = origin.version
    lines = ["## Training data", ""]
    if version is None:
        lines.append("- the seeds only, no synthetic row: it is the baseline of a version's student")
    else:
        splits = ", ".join(f"{plain(name)} {count:,}" for name, count in version.splits.items())
        lines += [
            f"- dataset {plain(version.ref)}, content hash {version.content_hash}: {version.rows:,} rows ({splits})"
            + (", **partial**" if version.partial else ""),
            "- its train split and the seeds",
        ]
    settings = student.settings
    objective = f"objective {plain(settings.objective.kind)}, " if settings.objective else ""
    lines += [
        f"- {student.train_rows:,} training rows, each counted once; {origin.seeds:,} seeds (licence: {licence})",
        f"- {settings.epochs} epochs, learning rate {settings.learning_rate:g}, random seed {settings.seed}, "
        f"{objective}soft labels {settings.soft_weight:g}, class weights {settings.class_weights}; "
        f"{student.seconds:,.0f} s on "
        f"{plain(student.device)}, {student.created_at:%Y-%m-%d}",
    ]
    if origin.restricted:
        lines.append(
            f"- {origin.restricted:,} rows of the dataset are restricted (harmful by design); none is shown here"
        )
    return "\n".join(lines)


def _judged(judged: Judgements) -> str:
    if not judged.held_out:
        return "## Evaluation\n\nIt was not evaluated on a held-out file."
    body = []
    for one in judged.held_out:
        base = judged.beside(one)
        body.append([
            _file(one), f"{one.rows:,}", f"{one.accuracy:.1%}", _interval(one), f"{one.macro_f1:.1%}",
            _share(one.majority), _share(base.accuracy if base else None), _gain(one.accuracy, base),
            _share(base.macro_f1 if base else None),
        ])  # fmt: skip
    head = ["held-out file", "rows", "accuracy", "95% interval", "macro-F1", "largest class", "accuracy, seeds only",
            "gain", "macro-F1, seeds only"]  # fmt: skip
    note = "Seeds only: a student of the same settings that saw no synthetic row. Largest class: always guessing it."
    if micro := [f"{one.micro_f1:.1%} on {_file(one)}" for one in judged.held_out if one.micro_f1 is not None]:
        note += " A text is right if all of its labels are; the largest class is the most frequent set of labels."
        note += f" Micro-F1 over all rows and labels: {', '.join(micro)}."
    spread = [f"{one:.1%}" for first in judged.held_out[:1] for one in first.accuracies]
    more = f" Accuracies of its trainings with other seeds: {', '.join(spread)}." if len(spread) > 1 else ""
    return "## Evaluation\n\n" + _table(head, body) + f"\n\n{note}{more}"


def _classes(judged: Judgements) -> str:
    if not judged.held_out:
        return ""
    one = judged.held_out[0]
    body = [
        [plain(score.label), f"{score.precision:.1%}", f"{score.recall:.1%}", f"{score.f1:.1%}", f"{score.support:,}"]
        if score.support
        else [plain(score.label), "–", "–", "–", "0"]
        for score in one.classes
    ]
    title = f"Each class on {_file(one)}:\n\n"
    return title + _table(["label", "precision", "recall", "F1", "rows"], body)


def _many(student: Student) -> bool:
    """Return True if a text may have any number of labels."""
    return student.settings.multi_label is not None


def _calibration(judged: Judgements, rule: Rule, many: bool) -> str:
    lines = ["## Probabilities", ""]
    measured = [one for one in judged.held_out if one.ece is not None]
    for one in measured:
        after = "" if one.ece_scaled is None else f", {one.ece_scaled:.1%} with the temperature below"
        lines.append(f"- expected calibration error on {_file(one)}: {one.ece:.1%}{after} (0 is perfect)")
        if one.auprc is not None:
            lines.append(f"- area under precision and recall there, for {plain(one.positive)}: {one.auprc:.1%}")
    if not measured:
        lines.append("- calibration was not measured: use the probabilities to rank texts, not as frequencies")
    if many:
        lines.append("- each label has its own threshold in labels.json, above which it is predicted: the one with the "
                     "largest F1 on validation rows, 0.5 if they decide nothing; no temperature is used")  # fmt: skip
        return "\n".join(lines)
    lines.append(
        f"- temperature {rule.temperature:.3g}: logits are divided by it"
        + (", fitted on validation rows" if rule.temperature != 1.0 else " (not fitted)")
    )
    if rule.threshold is not None:
        lines.append(
            f"- threshold {rule.threshold:.3g}: `graft predict` returns {plain(rule.positive)} if its probability, "
            "without the temperature, is above it; accuracy in the table is of the most probable label"
        )
        lines += [
            f"- at this threshold {one.false_refusals:.1%} of the other class in {_file(one)} are predicted "
            f"{plain(one.positive)}"
            for one in judged.held_out
            if one.false_refusals is not None
        ]
    else:
        lines.append("- no threshold: the most probable label is predicted")
    return "\n".join(lines)


def _use(student: Student, origin: Origin, judged: Judgements) -> str:
    lines = [
        "## Use and limits",
        "",
        f"- meant for texts like those of the dataset: {plain(origin.task)}, language {plain(origin.language)}; "
        "on other texts its predictions are as confident, but meaningless",
        f"- reads {origin.max_length:,} tokens of a text at most; the rest is ignored",
        "- predicts no label for a text if none is above its threshold"
        if _many(student)
        else "- always predicts one of its labels, also for texts that fit none of them",
    ]
    if student.trained_on != "seeds":
        lines.append(
            "- models wrote and judged its training rows, apart from the seeds: it carries their errors and biases"
        )
    if not judged.held_out:
        lines.append("- its quality is not known: measure it on rows that people wrote")
    for one in judged.held_out:
        name = _file(one)
        if lacking := [score.label for score in one.classes if not score.support]:
            shown = ", ".join(plain(label) for label in lacking[:10]) + (" …" if len(lacking) > 10 else "")
            lines.append(f"- {name} has no rows of {len(lacking)} labels, so their quality is unknown: {shown}")
        if one.rows < FEW_ROWS:
            lines.append(f"- {name} is small ({one.rows:,} rows): a difference inside the interval may be chance")
        if one.test_file.endswith("(synthetic)"):
            lines.append(f"- {name} was written by models too: on texts of people it may do worse")
    return "\n".join(lines)


def _loading(rule: Rule, difference: float, many: bool) -> str:
    unused = rule.threshold is None or many
    threshold = "" if unused else " Neither snippet applies the threshold; `graft predict` does."
    onnx, torch = (MANY_ONNX_SNIPPET, MANY_TORCH_SNIPPET) if many else (ONNX_SNIPPET, TORCH_SNIPPET)
    return (
        "## How to load it\n\n"
        "With Graft: `graft predict FOLDER texts.csv`. Without it, from this folder (pip install numpy onnxruntime "
        f"tokenizers):\n\n```python\n{onnx}```\n\n"
        f"With PyTorch (pip install torch transformers safetensors):\n\n```python\n{torch}```\n\n"
        f"Both return the same: over 32 texts of different lengths no logit differs by more than {difference:.2g}."
        f"{threshold}"
    )


def _file(one: Evaluation) -> str:
    return plain(_last(one.test_file))


def _last(place: str) -> str:
    """Without its parent folders: they describe the machine, not the student."""
    return Path(place).name if Path(place).is_absolute() else place


def _interval(one: Evaluation) -> str:
    low, high = one.between
    return f"{low:.1%} to {high:.1%}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _gain(accuracy: float, base: Evaluation | None) -> str:
    return "–" if base is None else f"{100 * (accuracy - base.accuracy):+.1f} points"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in body])
