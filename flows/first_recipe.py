"""`graft init`: look at a person's file, and write a commented recipe for it that validates."""

from __future__ import annotations

import itertools
import json
import re
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from graft.data.gates.shared.languages import language_of
from graft.data.intake import columns, sources
from graft.data.intake.columns import Mapped
from graft.data.intake.parts import Problems, Source
from graft.data.intake.texts import NO_OTHERS
from graft.flows.plan import read_recipe
from graft.schemas.base import Value, stable_hash
from graft.schemas.errors import GraftError, InputInvalid, Problem
from graft.schemas.problems import FieldErrors
from graft.schemas.tasks.base import ImportedRows, Task

MOST_ROWS = 20_000
"""Rows of a file that are looked at."""
MOST_LABELS = 200
"""Distinct values up to which a column is taken for the labels."""
USUAL_CHARS = 4_000
"""Characters to which gates hold a text by default."""


FEWEST_HELD = 4
"""Texts of a label from which one in so many is held out to test the student."""


class Look(Value):
    """What a file holds: its columns, and counts, lengths (characters) and language of its first rows."""

    file: str
    columns: tuple[str, ...]
    text: str
    label: str = ""
    response: str = ""
    rows: int
    labels: dict[str, int] = Field(default_factory=dict)
    chars: tuple[int, int, int]
    language: str = ""
    skipped: str = ""

    def summary(self) -> str:
        """The file in one line."""
        least, middle, most = self.chars
        what = f"{self.rows:,}{' or more' if self.rows == MOST_ROWS else ''} rows, texts in {self.text!r}"
        what += f" ({least:,} to {most:,} characters, half of them up to {middle:,}{self._language()})"
        counts = ", ".join(f"{name} {count:,}" for name, count in itertools.islice(self.labels.items(), 12))
        more = f" and {len(self.labels) - 12} more" if len(self.labels) > 12 else ""
        return what + (f"; labels in {self.label!r}: {counts}{more}" if self.labels else "; no labels") + self.skipped

    def _language(self) -> str:
        return f", language {self.language}" if self.language else ""


def look_at(file: str, text: str | None = None, label: str | None = None) -> Look:
    """Look at a file that `graft import` reads.

    Args:
        file: path of a file or folder
        text: column of the texts; None: detected
        label: column of the labels; None: detected, "": none

    Raises:
        InputInvalid: it cannot be read, a column does not exist, or the texts' column is not clear.
    """
    source = sources.find(file)
    some = columns.sample(source)
    given = {name: column for name, column in (("text", text), ("label", label)) if column is not None}
    try:
        mapped = _mapped(source, some, given)
    except InputInvalid as error:
        raise InputInvalid([_by_flag(problem) for problem in error.problems]) from None
    names = tuple(dict.fromkeys(str(name) for record in some for name in record))
    texts, labels, rows = _read(source, mapped)
    if not texts:
        fix = f"name another column with --text-column: {', '.join(names)}"
        raise InputInvalid([Problem(file, None, "", "no row has a text", fix)])
    skipped = ""
    if label is None and not 2 <= len(labels) <= min(MOST_LABELS, max(2, rows // 2)):
        skipped = f" ({len(labels):,} distinct values in {mapped.label!r})" if labels else ""
        labels, mapped = Counter(), replace(mapped, label=None)
    lengths = sorted(map(len, texts))
    return Look(
        file=file, columns=names, text="+".join(mapped.text), label=mapped.label or "",
        response=mapped.response or "", rows=rows, labels=dict(labels.most_common()), skipped=skipped,
        chars=(lengths[0], lengths[len(lengths) // 2], lengths[-1]), language=language_of(texts),
    )  # fmt: skip


def _mapped(source: Source, some: Sequence[Mapping[str, Any]], given: Mapping[str, str]) -> Mapped:
    """The columns by role; a label or a response that cannot be told is left out."""
    try:
        found = columns.guess(source, some, given)
    except InputInvalid as error:
        unclear = {problem.field for problem in error.problems} & {"label", "response"} - given.keys()
        if not unclear:
            raise
        found = _mapped(source, some, {**given, **dict.fromkeys(unclear, "")})
    if found.chat:
        found = columns.guess(source, some, {**NO_OTHERS, **given})
    return found


def _read(source: Source, mapped: Mapped) -> tuple[list[str], Counter[str], int]:
    """Texts, label counts and number of the first rows."""
    rows = [*_rows(source, mapped)]
    return [text for text, _ in rows if text], Counter(label for _, label in rows if label), len(rows)


def _rows(source: Source, mapped: Mapped) -> Iterator[tuple[str, str]]:
    """Text and label of the first rows, each empty if a row has none."""
    problems = Problems(skip=True)
    records = (record for part in source.parts for _, record in part.records(problems, mapped.columns))
    for record in itertools.islice(records, MOST_ROWS):
        pieces = [value for name in mapped.text if isinstance(value := record.get(name), str) and value.strip()]
        value = record.get(mapped.label) if mapped.label else None
        yield "\n\n".join(pieces), "" if value is None else str(value).strip()
    problems.finish()


def hold_out(look: Look) -> tuple[Path, Path, int] | None:
    """Split a labelled file into one of seeds and one that only tests the student, written beside it.

    A quarter of each label's texts is held out, by their hash, so that the same file is always split alike.

    Returns:
        The two files (JSONL of text and label) and the number of test rows; None if the file has no labels, has
        responses, or has fewer than FEWEST_HELD different texts of a label.
    """
    if not look.labels or look.response:
        return None
    source = sources.find(look.file)
    mapped = _mapped(source, columns.sample(source), {"text": look.text, "label": look.label})
    by_label: dict[str, dict[str, None]] = {}
    for text, label in _rows(source, mapped):
        if text and label:
            by_label.setdefault(label, {})[text] = None
    if min(map(len, by_label.values())) < FEWEST_HELD:
        return None
    parts: tuple[list[str], list[str]] = [], []
    for label, texts in by_label.items():
        for place, text in enumerate(sorted(texts, key=stable_hash)):
            row = json.dumps({"text": text, "label": label}, ensure_ascii=False)
            parts[place < len(texts) // FEWEST_HELD].append(row)
    file, mark = Path(look.file), stable_hash(parts, length=8)  # a file of this name never changes: recipes keep theirs
    seeds, test = (file.with_name(f"{file.stem}-{name}-{mark}.jsonl") for name in ("seeds", "test"))
    for target, lines in zip((seeds, test), parts, strict=True):
        target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return seeds, test, len(parts[1])


def _by_flag(problem: Problem) -> Problem:
    return replace(problem, fix=re.sub(r"--map (text|label)=COLUMN", r"--\1-column COLUMN", problem.fix))


def task_fields(task: type[Task], labels: Mapping[str, str], look: Look | None, policy: str) -> dict[str, Any]:
    """The task's own fields for these labels (name to meaning, may be empty).

    Raises InputInvalid if the labels do not fit the task, GraftError if no recipe can be written for it.
    """
    if task.needed:
        what = f"graft init writes no recipe of {task.named()}, whose rows need {' and '.join(task.needed)}"
        raise GraftError(
            what, where="--task", fix="start from one of the gallery: graft recipes, graft recipes copy NAME"
        )
    try:
        answered = bool(look and look.response)
        made = task.of_rows(ImportedRows(labels=list(labels), answered=answered, restricted=True, policy=policy))
    except FieldErrors as errors:
        raise InputInvalid([Problem("--labels", None, "", one.what, one.fix) for one in errors.findings]) from None
    except NotImplementedError:
        fix = "start from one of the gallery: graft recipes, graft recipes copy NAME"
        raise GraftError(f"graft init writes no recipe of {task.named()}", where="--task", fix=fix) from None
    for value in made.values():
        for entry in value if isinstance(value, list) else ():
            entry["description"] = labels.get(entry.get("name"), "")
    return {name: value for name, value in made.items() if value != []}


def compose(
    name: str, task: type[Task], fields: Mapping[str, Any], look: Look | None, path: str, model: Mapping[str, Any],
    head: str = "Written by graft init", test: str = "",
) -> str:  # fmt: skip
    """The recipe's text, with a comment for each choice.

    Args:
        name: of the dataset
        task: kind of task
        fields: its own fields, as from `task_fields`
        look: what the file holds; None: no file
        path: the file as the recipe names it
        model: the entry of `models`
        head: begins the first line
        test: labelled file that tests the student, as the recipe names it; empty: none
    """
    seeded = bool(look and (look.labels or not task.labelled))
    weak, paid = model["provider"] == "embedded", model["provider"] == "litellm"
    lines = [
        f"# {head}{f' from {path}' if look else ''}. Edit it freely, then:",
        f"#   graft preview {name}.yaml && graft estimate {name}.yaml && graft run {name}.yaml",
        *([f"# The file: {look.summary()}."] if look else []),
        "", f"name: {_yaml(name)}", "", "task:", f"  kind: {task.named()}",
    ]  # fmt: skip
    if "text" in task.model_fields and "text" not in fields:
        lines += _said("  text: a short text", "what a text is, who writes it and to whom: prompts show it")
    language = look.language if look and look.language else "en"
    lines += [*_said(f"  language: {language}", "of the texts: models write in it"), *_fields(fields, look)]
    lines += _sources(task, look, path, seeded) + _method(task, look, path, seeded, weak)
    lines += ["", *_said("models:", "roles name members of this pool; here one model plays all"), f"  - {_yaml(model)}"]
    lines += _roles(task, look, model, seeded, weak)
    lines += ["", "target:", *_said("  rows_per_label: 50", "accepted rows, not attempts")]
    if look and look.chars[2] > USUAL_CHARS:
        most = min(100_000, (look.chars[2] // 1_000 + 1) * 1_000)
        lines += ["", "gates:", *_said(f"  max_chars: {most}", f"your longest text has {look.chars[2]:,} characters")]
    attempts = 10_000 if seeded or not look else 1_000_000
    lines += ["", "limits:", *_said(f"  candidates: {attempts}", "attempts, at most")]
    lines += _said("  money_usd: 5", "US dollars; the run ends cleanly before it costs more") if paid else []
    if test:
        lines += ["", "student:", *_said(f"  test: {_yaml(test)}", "your rows that are held out: no prompt shows them")]
    return "\n".join(lines) + "\n"


def write(target: Path, text: str, *, force: bool) -> None:
    """Validate a recipe's text and write it to `target`.

    Raises:
        GraftError: the file exists, and `force` is not set.
        InputInvalid: the recipe is not valid; nothing was written.
    """
    if target.exists() and not force:
        fix = "give another --out, or --force to replace it"
        raise GraftError("this file exists", where=str(target), fix=fix)
    if not target.parent.is_dir():
        raise GraftError("there is no such folder", where=str(target.parent), fix="create it, or give another --out")
    with _drafted(target, text) as draft:
        draft.replace(target)


def problems_of(target: Path, text: str) -> list[Problem]:
    """Every problem that a recipe's text would have in the file `target`, which is not written."""
    try:
        if target.is_file() and target.read_text(encoding="utf-8") == text:
            read_recipe(str(target))
            return []
        with _drafted(target, text):
            return []
    except InputInvalid as error:
        return error.problems


@contextmanager
def _drafted(target: Path, text: str) -> Iterator[Path]:
    """A valid file beside `target` with this text, deleted at the end of the block. Raises as `write` does."""
    draft = target.with_name(f".{target.stem}-{uuid.uuid4().hex[:8]}.yaml")
    try:
        draft.write_text(text, encoding="utf-8")
        read_recipe(str(draft))
        yield draft
    except InputInvalid as error:
        named = [replace(one, file=str(target) if one.file == str(draft) else one.file) for one in error.problems]
        raise InputInvalid(named) from None
    except OSError as error:
        fix = "give an --out in a folder that you can write"
        raise GraftError(error.strerror or "cannot be written", where=str(target), fix=fix) from error
    finally:
        draft.unlink(missing_ok=True)


def _said(line: str, comment: str) -> list[str]:
    return [f"{line:<31} # {comment}"]


def _fields(fields: Mapping[str, Any], look: Look | None) -> list[str]:
    """The task's own fields; a list of labels has one line each."""
    lines, counts = list[str](), look.labels if look else {}
    for name, value in fields.items():
        if not isinstance(value, list):
            lines.append(f"  {name}: {_yaml(value)}")
            continue
        lines += _said(f"  {name}:", "describe each: prompts show it")
        for entry in value:
            line = f"    - {_yaml(entry)}"
            lines += _said(line, f"{counts[entry['name']]:,} rows") if entry["name"] in counts else [line]
    return lines


def _sources(task: type[Task], look: Look | None, path: str, seeded: bool) -> list[str]:
    if not look and not task.labelled:
        return ["", *_said("seeds:", "rows like those you want: prompts show some of them"), "  path: seeds.jsonl"]
    if not look or not seeded:
        return []
    columns_of = (("text", look.text), ("label", look.label), ("response", look.response))
    named = [f"  {field}_field: {_yaml(column)}" for field, column in columns_of if column]
    return ["", *_said("seeds:", "your rows: prompts show some of them as examples"), f"  path: {_yaml(path)}", *named]


def _method(task: type[Task], look: Look | None, path: str, seeded: bool, weak: bool) -> list[str]:
    """How rows are made: labels for given texts, new texts after seeds, or new texts from descriptions alone."""
    if look and not seeded:
        lines = _said("  kind: label", "models label your texts; with top_up they write more (docs/label.md)")
        lines += [f"  texts: {_yaml(path)}", f"  text_column: {_yaml(look.text)}"]
        return ["", "method:", *lines, *_said("  labelers: 1", "models per text")]
    if not look and task.labelled:
        lines = _said("  kind: promptmix", "hard texts between two labels (docs/promptmix.md)")
        lines += _said("  shots: 0", "no examples: from the labels' descriptions alone")
        return ["", "method:", *lines, "  partner: random", "  max_cosine: null", "  labelers: 1"]
    lines = _said("  kind: gra", "a generator writes, reviewers judge (docs/gra.md)")
    lines += _said("  reviewers: 1", "with several models: 3, as in the paper")
    if weak and task.labelled:
        lines += _said("  calibration_texts: 16", "written once to calibrate the judge; 40 is surer, and slower")
    if weak and not task.labelled:
        lines += _said("  tau: 5.0", "a small model's scores say little: with a large one leave both out")
        lines.append("  delta: 3.0")
    return ["", "method:", *lines]


def _roles(task: type[Task], look: Look | None, model: Mapping[str, Any], seeded: bool, weak: bool) -> list[str]:
    if look and not seeded:
        return ["", "roles:", f"  labeler: {{models: [{model['name']}]}}"]
    tokens = min(2_048, max(48, (look.chars[1] if look else 200) // 2 + 32))
    lines = ["", "roles:", f"  generator: {{temperature: 0.9, top_p: 0.95, max_tokens: {tokens}}}"]
    if seeded and task.labelled and weak:
        lines += _said("  reviewer: {answer: logprobs}", "a probability for every label")
    return lines


def _yaml(value: Any) -> str:
    import yaml

    flow = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=100_000)
    return flow.partition("\n...")[0].strip()


def labels_in(given: str) -> dict[str, str]:
    """Label to meaning (may be empty) of `a,b` or `a=what it means,b=…`."""
    pieces = [piece.partition("=") for piece in given.split(",") if piece.strip()]
    return {name.strip(): clause.strip() for name, _, clause in pieces}


def beside(file: Path, folder: Path) -> str:
    """The path as a recipe in that folder names it."""
    whole = file.expanduser().resolve()
    return str(whole.relative_to(folder)) if whole.is_relative_to(folder) else str(whole)
