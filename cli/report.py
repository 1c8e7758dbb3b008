"""The report at the end of a run: rows made, rejections with reasons, cost, next steps."""

from __future__ import annotations

from typing import Any

from graft.data.card import funnel_table, inert, table_markdown
from graft.flows.feasibility import early_line, row_price, standing_out
from graft.schemas.decisions import decision_code
from graft.schemas.home import Home


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
    price = "unknown (a model has no price in the recipe)" if run["price_usd"] is None else f"${run['price_usd']:.4f}"
    tokens = f"{run['prompt_tokens']:,} prompt and {run['completion_tokens']:,} completion tokens"
    return f"{run['calls']:,} model calls, {tokens}, price {price}, {run['seconds']:.0f} s."


def _early(run: dict[str, Any], funnel: list[dict[str, Any]]) -> str:
    """The warnings that the terminal showed during the run, with their final figures."""
    reasons = {row["code"]: row["rows"] for row in funnel if row["status"] != "accepted"}
    settled, rows = run["counts"].get("opened", 0), run["counts"].get("published", 0)
    price = row_price(run["price_usd"] / rows if rows and run["price_usd"] is not None else None,
                      unknown=run["price_usd"] is None)  # fmt: skip
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
            f"- a student: `graft train {ref}`",
        ]
    lines += [f"- exported: {path}" for path in exported or []]
    lines.append(f"- the lake (Parquet under DuckDB): {home.lake}")
    return "\n".join(lines)
