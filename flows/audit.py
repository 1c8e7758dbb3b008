"""Audits of a published version, with the encoder, the recipe's gates and, if requested, real students."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from graft.agents.local import encoder
from graft.data.audits import KINDS, Audit, Material
from graft.data.audits.base import Check, Embed, audit_rows
from graft.data.versions import version as find_version
from graft.schemas.base import Value
from graft.schemas.datasets import DatasetVersion
from graft.schemas.errors import GraftError, InputInvalid, Problem, StorageFull
from graft.schemas.problems import Explainer, did_you_mean
from graft.schemas.sections import Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from graft.data.lake import Lake


@dataclass(frozen=True)
class AuditReport:
    """Findings by audit; None for an audit that was not possible, with the reason in `notes`."""

    version: DatasetVersion
    rows: int
    found: Mapping[str, Any]
    sections: tuple[Section, ...] = ()
    pictures: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None for an audit that did not run."""
        made = {name: KINDS.get(name).data(one) for name, one in self.found.items() if one is not None}
        return {
            "version": self.version.ref,
            "rows": self.rows,
            "notes": list(self.notes),
            **{name: made.get(name) for name in KINDS.names},
            "pictures": [str(path) for path in self.pictures],
        }


def audit(
    lake: Lake,
    ref: str,
    names: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    *,
    restricted: bool = False,
    out: Path | None = None,
    embed: Embed | None = None,
) -> AuditReport:
    """Audit a version.

    Args:
        ref: `name` or `name@3`
        names: the audits; empty: all
        options: dotted audit and option to value, such as {"poison.share": 0.05}
        restricted: whether to include restricted rows
        out: folder for charts, by default GRAFT_HOME/reports
        embed: the sentence encoder, by default the built-in one

    Raises:
        NotFound: an unknown version or audit
        InputInvalid: an unknown or invalid option
        GraftError: an option names a label or row that the version lacks
        StorageFull: no space for a chart
    """
    chosen = {name: KINDS.get(name) for name in dict.fromkeys(names or KINDS.names)}
    given = _options(chosen, options or {})
    found = find_version(lake, ref)
    rows = audit_rows(lake, found, restricted=restricted)
    left_out = found.rows - len(rows)
    notes = [f"{left_out} restricted rows were left out (--restricted includes them)"] if left_out else []
    material = Material(
        lake=lake, version=found, rows=rows, restricted=restricted,
        embed=lambda: (embed, "") if embed else encoder.find_embed(),
        check=lambda: _gates(lake, found), learn=_real_student, notes=notes,
    )  # fmt: skip
    results = {name: one.run(material, given[name]) for name, one in chosen.items()}
    made = {name: one for name, one in results.items() if one is not None}
    sections = tuple(section for name, one in made.items() for section in chosen[name].sections(one))
    pictures = _pictures(out or lake.home.root / "reports", found, made, notes)
    return AuditReport(found, len(rows), results, sections, pictures, tuple(notes))


def _options(chosen: Mapping[str, Audit], options: Mapping[str, Any]) -> dict[str, Value]:
    """Each audit's own options. Raises InputInvalid that lists every invalid option."""
    problems, parts = list[Problem](), {name: dict[str, Any]() for name in chosen}
    for key, value in options.items():
        name, _, option = key.partition(".")
        known = [f"{one}.{field}" for one, kind in chosen.items() for field in kind.options.model_fields]
        if key in known:
            parts[name][option] = value
        else:
            fix = f"{did_you_mean(key, known)}one of: {', '.join(known)}" if known else "leave it out"
            problems.append(Problem("--set", None, key, "unknown option", fix))
    made: dict[str, Value] = {}
    for name, kind in chosen.items():
        try:
            made[name] = kind.options.model_validate(parts[name])
        except ValidationError as invalid:
            errors = [dict(error) for error in invalid.errors(include_url=False)]
            for one in Explainer(kind.options.model_json_schema()).explain_all(errors, parts[name]):
                problems.append(Problem("--set", None, ".".join([name, *map(str, one.path)]), one.what, one.fix))
    if problems:
        raise InputInvalid(problems)
    return made


def _gates(lake: Lake, found: DatasetVersion) -> Check | None:
    """The run's gates except the comparison with its own rows, from which rows are planted; None without a recipe.

    Roles are left out, because gates do not use them, so that a recipe of an earlier Graft works too.
    """
    from pydantic import ValidationError

    from graft.agents.methods import fragments_of
    from graft.data.gates import Admission, Needs
    from graft.schemas.recipe import Recipe
    from graft.schemas.rows import Proposal

    run = lake.run(found.run_id)
    try:
        recipe = Recipe.stored({k: v for k, v in (run.recipe if run else {}).items() if k != "roles"})
    except ValidationError:
        return None
    seeds, evaluation = lake.seeds(found.run_id), lake.test_texts(found.dataset)
    admission = Admission(recipe, Needs(seeds=seeds, fragments=fragments_of(recipe), evaluation=evaluation))
    return lambda text, label: all(one.passed for one in admission.screen(Proposal(text, label=label)))


def _real_student(texts: Sequence[str], labels: Sequence[str]) -> Callable[[Sequence[str]], Sequence[str]]:
    """Train a classifier with the default settings."""
    from graft.schemas.students import StudentSettings
    from graft.students.fit import fit

    pairs = list(zip(texts, labels, strict=True))
    model = fit(pairs, sorted(set(labels)), StudentSettings()).model
    return lambda texts: model.predict(texts)[0]


def _pictures(folder: Path, found: DatasetVersion, made: Mapping[str, Any], notes: list[str]) -> tuple[Path, ...]:
    """Write PNG files; without matplotlib none, with a note."""
    name, done = re.sub(r"[^A-Za-z0-9_-]+", "-", found.ref), list[Path]()
    for kind, one in made.items():
        try:
            figure = KINDS.get(kind).figure(one)
        except ImportError:
            notes.append("no charts: matplotlib is not installed")
            break
        if figure is not None:
            done.append(_saved(figure, folder / f"{name}-{kind}.png"))
    return tuple(done)


def _saved(figure: Figure, path: Path) -> Path:
    from graft.data.duck import is_full

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", metadata={"Software": None})
    except OSError as error:
        if is_full(error):
            raise StorageFull("no space left for a chart", where=str(path), fix="free some space") from error
        raise GraftError(
            error.strerror or "the file cannot be written", where=str(path), fix="another --out"
        ) from error
    return path
