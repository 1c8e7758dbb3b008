"""The quality report of a version: every group once, from the lake alone; the only model is the given encoder."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from graft.data.quality.compared import Counted, drift
from graft.data.quality.judged import ALPHA_ROWS, Gold, calibration, reviews, runs_of, yields
from graft.data.quality.meaning import meaning
from graft.data.quality.model import Drift, Quality
from graft.data.quality.words import Held, balance, duplicates, held, lengths, one, wording
from graft.data.versions import versions
from graft.schemas.datasets import DatasetVersion
from graft.schemas.recipe import Recipe

if TYPE_CHECKING:
    from graft.data.lake import Lake
    from graft.data.quality.meaning import Embed


def quality(
    lake: Lake,
    version: DatasetVersion,
    *,
    embed: Embed | None = None,
    against: DatasetVersion | None = None,
    gold: Gold | None = None,
    restricted: bool = False,
) -> Quality:
    """The quality report of a published version.

    `against` is the version for the drift figures, else the dataset's last one before it; `gold` are (row id or text,
    label) pairs; `embed` gives a vector a text. Texts of restricted rows are shown only if `restricted` is set. The
    same lake gives the same report, whatever the order of its rows. Raises ValueError if the version has no row.
    """
    missing: dict[str, str] = {}
    before = against or _before(lake, version)
    with ExitStack() as stack:
        rows = stack.enter_context(held(lake, version))
        counted = _counted(lake, rows, missing, restricted=restricted)
        runs = runs_of(lake, rows)
        missing.update(_absent(rows, counted, runs, embed, gold))
        found: dict[str, Any] = {
            "meaning": meaning(lake, rows, embed, missing) if embed else None,
            "reviews": reviews(lake, rows, runs, missing) if runs else None,
            "calibration": calibration(lake, rows, gold, missing) if gold is not None else None,
            "yields": yields(lake, rows, runs, missing) if runs else None,
            "drift": _drift(lake, rows, before, counted, stack, missing),
        }
        hidden = one(lake, f"SELECT count(*) FILTER (restricted) AS n FROM {rows.name}")["n"]
    total, by_label, by_length, by_word, repeats = counted
    report = Quality(
        dataset=version.dataset, version=version.version, origin=version.origin, rows=total, restricted_rows=hidden,
        balance=by_label, lengths=by_length, wording=by_word, duplicates=repeats, missing=dict(sorted(missing.items())),
        sampled=(), **found,
    )  # fmt: skip
    return report.model_copy(update={"sampled": _sampled(report)})


def _absent(rows: Held, counted: Counted, runs: list[str], embed: Embed | None, gold: Gold | None) -> dict[str, str]:
    """The groups that cannot be computed, each with its reason."""
    absent: dict[str, str] = {}
    if counted[1].evenness is None:
        absent["balance.evenness"] = "there is a single label"
    if not runs:
        imported = rows.version.origin == "import"
        why = "an import: no model made or judged its rows" if imported else "the lake holds no candidate of its runs"
        absent["reviews"] = absent["yields"] = why
    if embed is None:
        absent["meaning"] = "no encoder was given"
    if gold is None:
        absent["calibration"] = "no gold file was given"
    return absent


def _before(lake: Lake, version: DatasetVersion) -> DatasetVersion | None:
    """The dataset's last version before this one."""
    earlier = [one for one in versions(lake, version.dataset) if one.version < version.version]
    return earlier[-1] if earlier else None


def _counted(lake: Lake, rows: Held, missing: dict[str, str], *, restricted: bool, whole: bool = True) -> Counted:
    """The groups of the rows themselves; without self-BLEU and near duplicates unless `whole`."""
    return (
        rows.version.rows,
        balance(lake, rows, _wanted(lake, rows.version)),
        lengths(lake, rows),
        wording(lake, rows, missing, bleu=whole),
        duplicates(lake, rows, missing, restricted=restricted, near=whole),
    )


def _wanted(lake: Lake, version: DatasetVersion) -> dict[str, int]:
    """Requested rows per label by the run's recipe; empty if there is no run, or a recipe of an older Graft."""
    run = lake.run(version.run_id)
    try:
        return dict(Recipe.stored(run.recipe).wanted()) if run and run.recipe else {}
    except ValidationError:
        return {}


def _drift(
    lake: Lake,
    rows: Held,
    before: DatasetVersion | None,
    counted: Counted,
    stack: ExitStack,
    missing: dict[str, str],
) -> Drift | None:
    if before is None:
        missing["drift"] = "it is the dataset's first version"
        return None
    if before.ref == rows.version.ref:
        return drift(lake, rows, rows, (counted, counted), missing)
    other = stack.enter_context(held(lake, before))
    then = _counted(lake, other, {}, restricted=False)
    return drift(lake, rows, other, (counted, then), missing)


def _sampled(report: Quality) -> tuple[str, ...]:
    """The figures that were computed on a sample, in sentences."""
    parts = []
    if 0 < report.wording.self_bleu_rows < report.rows:
        parts.append(f"self-BLEU: {report.wording.self_bleu_rows:,} rows among themselves")
    if 0 < report.duplicates.near_rows < report.rows:
        parts.append(f"near duplicates: {report.duplicates.near_rows:,} rows, each against the whole version")
    if report.meaning and report.meaning.rows < report.rows:
        parts.append(f"embeddings: {report.meaning.rows:,} rows and {report.meaning.seeds:,} seeds")
    if report.reviews and report.reviews.alpha_candidates == ALPHA_ROWS:
        parts.append(f"alpha: {ALPHA_ROWS:,} candidates")
    if report.reviews and report.reviews.alpha_flags_units == ALPHA_ROWS:
        parts.append(f"alpha of flags: {ALPHA_ROWS:,} flags")
    if report.drift and report.drift.equal_rows < report.rows:
        parts.append(f"distinct-2 beside {report.drift.against}: {report.drift.equal_rows:,} rows of each")
    return tuple(f"{part}, chosen by the hash of the id" for part in parts)
