"""Audits of a published version, with the encoder, the recipe's gates and, where wanted, real students."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.data.audit import Curve, Poisoning, ShortcutReport, audit_rows, curves, poison, shortcuts
from graft.data.audit.poison import SHARE, Check, Learn
from graft.data.versions import version as find_version
from graft.schemas.datasets import DatasetVersion
from graft.schemas.errors import GraftError, StorageFull
from graft.schemas.home import Home

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from graft.data.audit import AuditRow
    from graft.data.audit.base import Embed
    from graft.data.lake import Lake


@dataclass(frozen=True)
class Wanted:
    """Which audits, and how: `share` of rows planted, `repeats` of each form, `target` label, real `student` or not."""

    shortcuts: bool = True
    poison: bool = True
    hacking: bool = True
    share: float = SHARE
    repeats: int = 3
    target: str | None = None
    student: bool = False
    restricted: bool = False


@dataclass(frozen=True)
class Audit:
    """What was found; None for what was not asked for or could not be done, with the reason in `notes`."""

    version: DatasetVersion
    rows: int
    shortcuts: ShortcutReport | None = None
    poison: Poisoning | None = None
    hacking: tuple[Curve, ...] | None = None
    pictures: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        told = {"version": self.version.ref, "rows": self.rows, "notes": list(self.notes)}
        hacking = (
            [{**asdict(one), "verdict": one.verdict} for one in self.hacking] if self.hacking is not None else None
        )
        words = asdict(self.shortcuts) if self.shortcuts else None
        if words and self.shortcuts:
            for name in ("labels", "writers"):
                found = getattr(self.shortcuts, name)
                words[name] = [{**asdict(one), "flagged": one.flagged} for one in found]
        poisoned = asdict(self.poison) if self.poison else None
        pictures = [str(path) for path in self.pictures]
        return {**told, "shortcuts": words, "poison": poisoned, "hacking": hacking, "pictures": pictures}


def audit(
    lake: Lake, ref: str, wanted: Wanted | None = None, *, out: Path | None = None, embed: Embed | None = None
) -> Audit:
    """Audits a version (`name`, `name@3`). Pictures go to `out`, by default GRAFT_HOME/reports.

    `embed` left out: the built-in encoder. Raises NotFound for an unknown version, GraftError for an unknown target,
    StorageFull.
    """
    chosen = wanted or Wanted()
    found = find_version(lake, ref)
    rows = audit_rows(lake, found, restricted=chosen.restricted)
    left_out = found.rows - len(rows)
    notes = [f"{left_out} restricted rows were left out (--restricted takes them in)"] if left_out else []
    words = shortcuts(rows) if chosen.shortcuts else None
    if words and not (words.labels or words.writers):
        notes.append("shortcuts: one label and one writer, so that no word can tell any apart")
    planted = _poisoned(lake, found, rows, chosen, embed, notes) if chosen.poison else None
    rounds = tuple(curves(lake, found.dataset, restricted=chosen.restricted)) if chosen.hacking else None
    folder = out or lake.home.root / "reports"
    pictures = _pictures(folder, found, words, rounds, notes)
    return Audit(found, len(rows), words, planted, rounds, pictures, tuple(notes))


def _poisoned(
    lake: Lake, found: DatasetVersion, rows: Sequence[AuditRow], wanted: Wanted, embed: Embed | None, notes: list[str]
) -> Poisoning | None:
    from graft.agents.local.encoder import find_embed

    vectors, why = (embed, "") if embed else find_embed()
    if vectors is None:
        notes.append(f"poison: {why}")
        return None
    check = _gates(lake, found)
    if check is None:
        notes.append("poison: this version has no recipe, so that no gate was asked")
    learn = _real_student(lake.home) if wanted.student else None
    try:
        return poison(
            rows, vectors, check=check, learn=learn, target=wanted.target, share=wanted.share, repeats=wanted.repeats
        )
    except GraftError as error:
        if error.where != "--poison":
            raise
        notes.append(f"poison: {error.what}; it needs {error.fix}")
        return None


def _gates(lake: Lake, found: DatasetVersion) -> Check | None:
    """The run's gates but that against rows of its own, one of which a planted row was made of; None without a recipe.

    Roles do not matter to gates, and are left out, so that a recipe of an earlier Graft serves too.
    """
    from pydantic import ValidationError

    from graft.agents.methods import fragments_of
    from graft.data.gates import Admission
    from graft.schemas.recipe import Recipe

    run = lake.run(found.run_id)
    try:
        recipe = Recipe.stored({k: v for k, v in (run.recipe if run else {}).items() if k != "roles"})
    except ValidationError:
        return None
    prompts = fragments_of(recipe)
    admission = Admission(recipe, lake.seeds(found.run_id), (), prompts, lake.test_texts(found.dataset))
    return lambda text, label: all(result.passed for result in admission.screen(text, None, label))


def _real_student(home: Home) -> Learn:
    """A fine-tuned classifier of the default settings in place of the quick one; minutes for each form."""
    from graft.schemas.students import StudentSettings
    from graft.students.fit import fit

    def learn(texts: Sequence[str], labels: Sequence[str]) -> Callable[[Sequence[str]], Sequence[str]]:
        pairs = list(zip(texts, labels, strict=True))
        model = fit(pairs, sorted(set(labels)), StudentSettings()).model
        return lambda asked: model.predict(asked)[0]

    return learn


def _pictures(
    folder: Path, found: DatasetVersion, words: ShortcutReport | None, rounds: Sequence[Curve] | None, notes: list[str]
) -> tuple[Path, ...]:
    """PNG files beside the tables; none, with a note, where matplotlib is not installed."""
    drawn = [(words and words.labels, "shortcuts"), (any(one.points for one in rounds or ()), "hacking")]
    if not any(what for what, _ in drawn):
        return ()
    try:
        from graft.flows.audit_plots import hacking_figure, shortcuts_figure
    except ImportError:
        notes.append("no pictures: matplotlib is not installed")
        return ()
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", found.ref)
    made: list[Path] = []
    if words and words.labels:
        made.append(_saved(shortcuts_figure(words), folder / f"{name}-shortcuts.png"))
    if rounds and any(one.points for one in rounds):
        made.append(_saved(hacking_figure(rounds), folder / f"{name}-hacking.png"))
    return tuple(made)


def _saved(figure: Figure, path: Path) -> Path:
    from graft.data.duck import is_full

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", metadata={"Software": None})
    except OSError as error:
        if is_full(error):
            raise StorageFull("no space left for a picture", where=str(path), fix="free some space") from error
        raise GraftError(error.strerror or "it cannot be written", where=str(path), fix="another --out") from error
    return path
