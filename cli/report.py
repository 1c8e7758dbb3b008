"""The end of a run: one screen for the terminal, and a report with every table for the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.data.card import funnel_table, inert, table_markdown
from graft.flows.feasibility import early_line, row_price, standing_out
from graft.schemas.decisions import decision_code
from graft.schemas.home import Home
from graft.schemas.money import all_local, money
from graft.schemas.sections import one_line
from graft.schemas.tasks.base import stored_task

if TYPE_CHECKING:
    from graft.schemas.students import Evaluation

REASONS = 4
"""Reasons for rejection on the screen; the report has all."""
EXAMPLES = 3


def screen(
    home: Home, result: dict[str, Any], rows: Sequence[dict[str, Any]] = (), trained: dict[str, Any] | None = None,
    exported: Sequence[str] = (), width: int = 100,
) -> str:  # fmt: skip
    """The end of a run in at most 30 lines: rows, cost, student, three rows, next steps.

    Args:
        home: holds the report that the screen names
        result: of the flow that made the dataset
        rows: rows to show, with `label`, `source` and `text`, none of them restricted
        trained: of the flow that trained a student, if there is one
        exported: files that were written
        width: columns of the terminal; a row's text is cut to it
    """
    run, version = result["run"], result["version"]
    blocks = [_outcome(run, version, result), _student(trained)]
    kinds = {(row["source"], row["label"]): row for row in reversed(rows)}  # of each kind the first
    shown = [
        f"  {one_line(row['label'] or 'row'):<14} {row['source']:<10} {one_line(row['text'])}"[:width]
        for row in [*kinds.values(), *(row for row in rows if row not in kinds.values())][:EXAMPLES]
    ]
    blocks += [["some rows", *shown]] if shown else []
    blocks.append(_where(home, run, version, trained, exported))
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _outcome(run: dict[str, Any], version: dict[str, Any] | None, result: dict[str, Any]) -> list[str]:
    """Rows and their labels, rejections by reason, cost."""
    if version is None:
        lines = [f"{run['dataset']}: nothing was accepted. Stopped by: {run['stopped_by']}."]
    else:
        splits = ", ".join(f"{count} {name}" for name, count in version["splits"].items() if count)
        lines = [f"{version['dataset']}@{version['version']}: {version['rows']} rows ({splits})"]
        labels = [f"{label} {count}" for label, count in version["labels"].items()]
        more = f", and {len(labels) - 8} more labels" if len(labels) > 8 else ""
        lines.append(f"  {', '.join(labels[:8])}{more}")
    if run["shortfall"] and version:
        short = ", ".join(f"{label} {count}" for label, count in list(run["shortfall"].items())[:8])
        lines.append(f"  short of the target (stopped by {run['stopped_by']}): {short}")
    if left := run["counts"].get("texts_left"):
        lines.append(f"  {left:,} texts have no label: fewer gave the requested margin of error")
    if result.get("repeated"):
        return [*lines, "  nothing has changed since the run that made it: no call was made"]
    out = sorted((row for row in result.get("funnel") or () if row["status"] != "accepted"), key=lambda r: -r["rows"])
    lines += [
        f"  {row['rows']:>5} not accepted: {decision_code(row['code']).sentence.rstrip('.')}" for row in out[:REASONS]
    ]
    rest = sum(row["rows"] for row in out[REASONS:])
    lines += [f"  {rest:>5} not accepted for other reasons"] if rest else []
    return [*lines, f"  {_cost(run)}"]


def _student(trained: dict[str, Any] | None) -> list[str]:
    """Seeds only against the version, with intervals and p. Students of other kinds report in their own words."""
    if not trained:
        return []
    compared = trained.get("paired")
    if not compared:
        return ["student", *trained["text"].splitlines()[:8]]
    from graft.schemas.students import Evaluation
    from graft.students.report import chance_of

    before, after = map(Evaluation.model_validate, trained["evaluations"])
    first, last = (one["train_rows"] for one in trained["students"])
    chance = chance_of(compared["p_value"])
    gain, low, high = (100 * compared[name] for name in ("difference", "low", "high"))
    verdict = "" if compared["p_value"] < 0.05 else "; this may be chance"
    return [
        f"{'student':<28}{'accuracy':>10}{'95% interval':>16}{'macro-F1':>11}",
        _judged(f"  {first} seeds only", before),
        _judged(f"  with the version ({last} rows)", after),
        f"  {gain:+.1f} points ({low:+.1f} to {high:+.1f}), {chance}{verdict};"
        f" {after.rows} test rows of {Path(after.test_file).name}",
    ]


def _judged(name: str, one: Evaluation) -> str:
    from graft.students.report import interval_of

    return f"{name:<28}{one.accuracy:>10.1%}{interval_of(one):>16}{one.macro_f1:>11.1%}"


def _where(
    home: Home, run: dict[str, Any], version: dict[str, Any] | None, trained: dict[str, Any] | None,
    exported: Sequence[str],
) -> list[str]:  # fmt: skip
    lines = [f"  every table            {home.run(run['id']) / 'report.md'}"]
    if version:
        ref = f"{version['dataset']}@{version['version']}"
        lines.append(f"  rows, rejected rows    graft show {ref}   graft show {ref} --rejected")
        if trained:
            lines.append(f'  the student            graft predict {version["dataset"]} "a text to label"')
        elif stored_task(run["recipe"]).student:
            lines.append(f"  train a student        graft train {_trained_on(ref, run, version)}")
        lines += [] if exported else [f"  export                 graft export {ref} --format jsonl"]
    lines += [f"  exported               {path}" for path in list(exported)[:2]]
    return ["next", *lines, "  the pages              graft dashboard"]


def _trained_on(ref: str, run: dict[str, Any], version: dict[str, Any]) -> str:
    """The words of `graft train`: with a held-out file if neither the recipe nor the version has test rows."""
    tested = version["splits"].get("test") or (run["recipe"].get("student") or {}).get("test")
    return ref if tested else f"{ref} --test FILE"


def run_page(
    home: Home, result: dict[str, Any], trained: dict[str, Any] | None = None, exported: list[str] | None = None
) -> str:
    """The report as Markdown. Holds counts and reasons, never a row's text."""
    run, version = result["run"], result["version"]
    parts = [f"# {run['dataset']}", _made(run, version, bool(result.get("repeated")))]
    if result.get("funnel"):
        reasons = [(row["status"], decision_code(row["code"]).sentence, row["rows"]) for row in result["funnel"]]
        parts += ["## Candidates by outcome", _early(run, result["funnel"]), table_markdown(funnel_table(reasons))]
    if result.get("method"):
        parts += ["## Labels", result["method"]]
    parts += ["## Cost", _cost(run), _beyond(run)]
    if result.get("notes"):
        parts += ["\n".join(f"- {inert(note)}" for note in result["notes"])]
    if trained:
        parts += ["## The student", "```\n" + trained["text"] + "\n```"]
        parts += [f"Confusion matrix: {path}" for path in trained["confusion"]]
    parts += ["## Next steps", _next(home, run, version, exported)]
    return "\n\n".join(parts) + "\n"


def _made(run: dict[str, Any], version: dict[str, Any] | None, repeated: bool) -> str:
    if version is None:
        return f"Nothing was accepted. Stopped by: {run['stopped_by']}."
    ref = f"{version['dataset']}@{version['version']}"
    splits = ", ".join(f"{count} {name}" for name, count in version["splits"].items())
    lines = [f"**{ref}**: {version['rows']} rows ({splits}), content `{version['content_hash'][:12]}`."]
    lines.append(", ".join(f"{label} {count}" for label, count in version["labels"].items()) + ".")
    if repeated:
        lines.append("Nothing has changed since the run that made it: no call was made.")
    if run["shortfall"]:
        short = ", ".join(f"{label} {count}" for label, count in run["shortfall"].items())
        lines.append(f"**Short of the target** (stopped by {run['stopped_by']}): {short}.")
    elif run["status"] == "partial":
        lines.append(f"**Ended early**, stopped by {run['stopped_by']}: not all texts were labelled.")
    return "\n".join(lines)


def _cost(run: dict[str, Any]) -> str:
    price = money(run["price_usd"], all_local(run["recipe"]))
    tokens = f"{run['prompt_tokens']:,} prompt and {run['completion_tokens']:,} completion tokens"
    return f"{run['calls']:,} model calls, {tokens}, price {price}, {run['seconds']:.0f} s."


def _early(run: dict[str, Any], funnel: list[dict[str, Any]]) -> str:
    """The warnings that the terminal showed during the run, with their final figures."""
    reasons = {row["code"]: row["rows"] for row in funnel if row["status"] != "accepted"}
    settled, rows = run["counts"].get("opened", 0), run["counts"].get("accepted", 0)
    price = row_price(run["price_usd"] / rows if rows and run["price_usd"] is not None else None,
                      unknown=run["price_usd"] is None, local=all_local(run["recipe"]))  # fmt: skip
    advice = standing_out(settled, reasons)
    return early_line(settled, rows, reasons, price) + (f"\n\n{advice}." if advice else "")


def _beyond(run: dict[str, Any]) -> str:
    """Rows and candidates beyond the target; the share of the latter is of all opened candidates."""
    counts = run["counts"]
    surplus, over, opened = counts.get("surplus", 0), counts.get("overshoot", 0), counts.get("opened", 0)
    share = f" ({over / opened:.1%} of all)" if opened else ""
    late = f"{over} candidates{share} opened after their label had reached its target"
    return f"Surplus: {surplus} accepted rows. Overshoot: {late}."


def _next(home: Home, run: dict[str, Any], version: dict[str, Any] | None, exported: list[str] | None) -> str:
    lines = [f"- this report: {home.run(run['id']) / 'report.md'}"]
    if version:
        ref = f"{version['dataset']}@{version['version']}"
        lines += [
            f"- the card and some rows: `graft show {ref}`",
            f"- rejected candidates, with reasons: `graft show {ref} --rejected`",
            "- the history of a row: `graft explain ROW`",
            f"- a training set: `graft export {ref} --format parquet`",
            f"- a student: `graft train {_trained_on(ref, run, version)}`",
        ]
    lines += [f"- exported: {path}" for path in exported or []]
    lines.append(f"- the lake (Parquet under DuckDB): {home.lake}")
    return "\n".join(lines)
