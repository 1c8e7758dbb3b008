"""Graft: a recipe becomes a reviewed, published dataset and a trained student.

The verbs of the command line as functions, for notebooks and scripts. A recipe is a path, a bundled recipe's name, a
dict of the fields of a recipe's file, or a `graft.Recipe`:

    import graft
    graft.validate({"name": "shop", "task": {…}})  # a Recipe, or every problem at once, as `graft validate` prints
    graft.estimate("demo")                     # calls, tokens and price before anything is spent
    graft.preview("demo", rows=5)              # a few rows with their reviews, and the cost of the rest
    run, version = graft.run("demo")           # make the dataset of a recipe
    frame = graft.load("demo")         # the latest version as a pandas frame with Arrow types
    graft.explain(frame.id[0])                 # a row's whole history
    graft.label("texts.csv", {"praise": "", "complaint": ""})  # labels for your own texts
    print(graft.teacher("demo").reasons[0])    # before a run: generate, label your own texts, or neither
    graft.train("demo", test="recipes/data/demo_test.jsonl")
    graft.predict("demo", ["It never came."])  # labels from the student
    graft.improve("demo", rounds=3)            # rows in rounds, steered by the student's errors
    graft.quality("demo").wording.distinct_2   # the quality report; graft.diff("demo@1", "demo@2") compares
    graft.report("demo", out="demo.html")      # a version's report in one HTML file
    graft.rescreen("demo", {"gates.near_duplicate": 0.7})  # new thresholds, no model calls
    graft.export("demo", format="jsonl", out="training-set")

Inside a running event loop (a notebook), the functions work on a thread of their own; `await graft.arun(…)` and its
like (`apreview`, `alabel`, `ateacher`, `aimprove`, `atrain`) leave the loop free meanwhile. A notebook shows one
progress bar for `run` and `improve`, values as small tables, and an error that you can act on as one message.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

if TYPE_CHECKING:
    import pandas as pd

    from graft.data.diff import Diff
    from graft.data.quality import Quality
    from graft.data.review import Queue
    from graft.data.scores.pairs import Paired
    from graft.flows.clean import Cleaned
    from graft.flows.estimate import Estimate
    from graft.flows.preview import Preview
    from graft.flows.rescreen import Rescreened
    from graft.schemas.datasets import DatasetVersion, Run
    from graft.schemas.gates import GateSettings
    from graft.schemas.models import ModelSpec, RoleSpec
    from graft.schemas.recipe import Limits, Recipe, SeedSettings, Target
    from graft.schemas.steering import Improvement
    from graft.schemas.students import StudentSettings
    from graft.schemas.verdict import Verdict
    from graft.students.heads import Answer
    from graft.students.report import Report

    AnyRecipe = str | Path | Mapping[str, Any] | Recipe
    """A path, a name, the fields of a recipe's file, or a recipe."""
    __version__: str


__all__ = [
    "GateSettings", "Limits", "ModelSpec", "Recipe", "RoleSpec", "SeedSettings", "StudentSettings", "Target",
    "__version__", "aimprove", "alabel", "apreview", "arun", "ateacher", "atrain", "clean", "compare", "datasets",
    "diff", "estimate", "explain", "export", "improve", "label", "load", "predict", "preview", "quality", "report",
    "rescreen", "review", "run", "teacher", "train", "validate",
]  # fmt: skip

_VALUES = {
    "recipe": ("Limits", "Recipe", "SeedSettings", "Target"), "models": ("ModelSpec", "RoleSpec"),
    "gates": ("GateSettings",), "students": ("StudentSettings",),
}  # fmt: skip
"""Module of graft.schemas to its names that are names here, loaded on first use."""

P = ParamSpec("P")
T = TypeVar("T")


class Made(NamedTuple):
    """Result of `run`: the run, and the version that it published, if any."""

    run: Run
    version: DatasetVersion | None

    def _repr_html_(self) -> str:
        return "".join(one._repr_html_() for one in self if one is not None)


def __getattr__(name: str) -> Any:
    """The version, or a class of recipes, once it is used."""
    from importlib import import_module

    if name == "__version__":
        from graft.schemas.kinds import code_version

        return code_version()
    for module, names in _VALUES.items():
        if name in names:
            return getattr(import_module(f"graft.schemas.{module}"), name)
    raise AttributeError(f"module 'graft' has no attribute {name!r}")


def validate(recipe: AnyRecipe) -> Recipe:
    """Check a recipe and its files; returns it. Raises InputInvalid with every problem, as `graft validate` prints."""
    from graft.flows.plan import read_recipe

    file, found, _ = read_recipe(_named(recipe))
    return found.within(file.resolve().parent)


def estimate(recipe: AnyRecipe) -> Estimate:
    """Calls, tokens and price of a recipe before anything is spent. Raises the GraftErrors of `graft estimate`."""
    from graft.flows.estimate import estimate_recipe

    return estimate_recipe(_named(recipe))


def run(
    recipe: AnyRecipe, *, rows_per_label: int | None = None, seed: int | None = None, money_usd: float | None = None,
    minutes: float | None = None,
) -> Made:  # fmt: skip
    """Make the dataset of a recipe; returns (run, version or None).

    Raises the GraftErrors that the command line prints. A repetition with nothing changed makes no call.
    """
    from graft.cli.notebook import notebook
    from graft.flows.engine import finished
    from graft.flows.make_dataset import make_dataset
    from graft.schemas.datasets import DatasetVersion, Run

    with notebook():
        result = finished(
            make_dataset(_named(recipe), rows_per_label=rows_per_label, seed=seed, money_usd=money_usd, minutes=minutes)
        )
    published = result["version"]
    version = DatasetVersion.model_validate(published) if published else None
    return Made(Run.model_validate(result["run"]), version)


def preview(recipe: AnyRecipe, *, rows: int = 5, restricted: bool = False) -> Preview:
    """Make a few rows of a recipe without publishing them; a notebook shows them as a table, with the cost of a run.

    Raises the GraftErrors that the command line prints. The run that follows does not repeat the calls.
    """
    from graft.cli.notebook import notebook
    from graft.flows.engine import finished
    from graft.flows.preview import preview as make

    with notebook():
        return finished(make(_named(recipe), rows, restricted=restricted))


def teacher(
    recipe: AnyRecipe, *, file: str | Path | None = None,
    texts: str | Path | None = None, rows: int = 200,
    judged: int = 40, pilot: int = 12,
) -> Verdict:  # fmt: skip
    """Measure what a run of the recipe would bring, before it: an advice with its evidence, as `graft teacher` prints.

    Args:
        recipe: as for `run`
        file: labelled rows to test on; default: the recipe's test file, else its seeds
        texts: your own unlabelled texts; default: those of the recipe
        rows: known rows at most, on which quick students are tested
        judged: of these, rows that every model labels; the best model labels up to 150 of your texts too
        pilot: generated candidates of each label

    Raises the GraftErrors that the command line prints. A repetition makes no call.
    """
    from graft.cli.notebook import notebook
    from graft.flows.engine import finished
    from graft.flows.verdict import look

    given = {name: str(path) if path else None for name, path in (("file", file), ("texts", texts))}
    with notebook():
        return finished(look(_named(recipe), **given, rows=rows, judged=judged, pilot=pilot))


def improve(
    recipe: AnyRecipe, *, rounds: int | None = None,
    rows_per_round: int | None = None, seeds: int | None = None,
    test: str | Path | None = None, steer_on: str | Path | None = None, compare: bool | None = None,
    policies: Sequence[str] | None = None,
) -> Improvement:  # fmt: skip
    """Make rows in rounds, steered by the last student's errors if policies are named; arguments override `improve:`.

    Raises the GraftErrors that the command line prints. A repetition continues, and repeats no finished work.
    """
    from graft.cli.notebook import notebook
    from graft.flows.engine import finished
    from graft.flows.improve import improve as flow
    from graft.schemas.steering import Improvement

    with notebook():
        result = finished(
            flow(
                _named(recipe), rounds=rounds, rows_per_round=rows_per_round, seeds=seeds, compare=compare,
                test=str(test) if test else None, steer_on=str(steer_on) if steer_on else None,
                policies=None if policies is None else list(policies),
            )
        )  # fmt: skip
    return Improvement.model_validate({name: result[name] for name in Improvement.model_fields})


def load(ref: str, *, split: str | None = None, restricted: bool = False) -> pd.DataFrame:
    """A version's rows (`name`, `name@3`) as a pandas frame with Arrow types; `restricted` includes restricted rows.

    If restricted rows are left out, a warning with their number is logged.
    """
    import logging

    from graft.data.lake import Lake
    from graft.data.versions import load as load_version
    from graft.data.versions import version

    with Lake.look() as lake:
        frame = load_version(lake, version(lake, ref), split)
    hidden = 0 if restricted else int(frame["restricted"].sum())
    if not hidden:
        return frame
    logging.getLogger("graft").warning("%s: %d restricted rows left out (restricted=True)", ref, hidden)
    return frame[~frame["restricted"]].reset_index(drop=True)


def explain(row_id: str, *, restricted: bool = False) -> dict[str, Any]:
    """A row's history: seeds, prompts, models, scores, gates, decision, price, versions, students.

    Unless `restricted` is true, "(restricted)" replaces every text that may quote a restricted row.
    """
    from graft.data.explain import explain as explain_row
    from graft.data.lake import Lake
    from graft.schemas.shown import History

    with Lake.look() as lake:
        return History(explain_row(lake, row_id, restricted=restricted))


def datasets() -> list[DatasetVersion]:
    """Every published version, oldest first."""
    from graft.data.lake import Lake
    from graft.data.versions import versions

    with Lake.look() as lake:
        return versions(lake)


def export(
    ref: str, *, format: str = "jsonl", out: str | Path | None = None, overwrite: bool = False,
    restricted: bool = False, **options: Any,
) -> list[Path]:  # fmt: skip
    """Write a version in an export format, one file for each split; returns the files.

    `options` are splits, where, columns, shards, shard_rows, compression, ask, instruction, plain, push, private and
    say, as in flows.export_dataset.export_version. `restricted` includes restricted rows; the README beside the
    files states how many are included or left out.
    """
    from graft.flows.export_dataset import export_version

    return export_version(ref, format=format, out=out, overwrite=overwrite, restricted=restricted, **options)


def quality(ref: str, *, against: str | None = None) -> Quality:
    """A version's quality report, with embeddings if the built-in encoder is installed; unknown figures are None.

    Drift is measured against `against`, by default the dataset's previous version.
    """
    from graft.agents.local.encoder import find_embed
    from graft.data.lake import Lake
    from graft.data.quality import quality as report
    from graft.data.versions import version

    embed, _ = find_embed()
    with Lake.look() as lake:
        return report(lake, version(lake, ref), embed=embed, against=version(lake, against) if against else None)


def diff(before: str, after: str, *, restricted: bool = False) -> Diff:
    """Compare two versions: rows, labels, splits, lengths, diversity, reviews, with examples."""
    from graft.data.diff import diff as compare
    from graft.data.lake import Lake
    from graft.data.versions import version

    with Lake.look() as lake:
        return compare(lake, version(lake, before), version(lake, after), restricted=restricted)


def report(ref: str, *, out: str | Path | None = None) -> Path:
    """Write a version's report as one HTML file, by default report-NAME-NUMBER.html here; returns its path.

    It runs no script and loads nothing; the text of restricted rows is hidden.
    """
    from graft.dashboard.report import write_report
    from graft.schemas.home import Home

    return write_report(Home.find(), ref, Path(out) if out is not None else None)


def rescreen(ref: str, overrides: Mapping[str, Any] | None = None, *, dry_run: bool = False) -> Rescreened:
    """Run every gate over a version again, such as rescreen("demo", {"gates.near_duplicate": 0.7}), without models."""
    from graft.flows.rescreen import rescreen_version

    return rescreen_version(ref, overrides, dry_run=dry_run)


def train(ref: str, *, test: str | Path | None = None, **settings: Any) -> Report:
    """Train and evaluate the student of a version: a classifier and a baseline on its seeds, on a held-out file.

    `settings` override fields of StudentSettings, such as epochs=5.
    """
    from graft.flows.train_student import train_version

    return train_version(ref, test=str(test) if test else None, overrides=settings)


def label(
    file: str | Path, labels: Mapping[str, str] | Sequence[str] | None = None, *, recipe: str | Path | None = None,
    model: str | None = None, name: str | None = None, top_up: bool = False, **settings: Any,
) -> Made:  # fmt: skip
    """Label a person's own texts, as `graft label` does; returns (run, version or None).

    Args:
        file: texts, in any file that `graft import` reads
        labels: names, or name to meaning; not with a recipe
        recipe: path or name of the recipe whose task, seeds and models are used
        model: without a recipe: a built-in model, MODEL@http://host/v1 or provider/model; None: found on this machine
        name: of the dataset
        top_up: fill labels short of the target by the recipe's own method
        settings: fields of the method `label`, such as most=500 or text_column="body"

    Raises the GraftErrors that the command line prints.
    """
    from graft.cli.label import prepare

    given = labels if labels is None or isinstance(labels, Mapping) else dict.fromkeys(labels, "")
    target, _ = prepare(str(file), str(recipe) if recipe else None, given, name, model, settings, top_up=top_up)
    return run(target)


def review(ref: str, *, rule: str = "disagreement", size: int = 20, restricted: bool = False, **options: Any) -> Queue:
    """The rows of a version that need review, and why, as `graft review` lists them.

    `options` are gate, where, seed, by and blind. Decide in the browser (`graft dashboard`, page Review).
    """
    from typing import cast

    from graft.cli.options import user_name
    from graft.data.lake import Lake
    from graft.data.review import queue
    from graft.data.versions import version

    given = {"by": user_name(), **options}
    with Lake.look() as lake:
        return queue(lake, version(lake, ref), cast("Any", rule), size=size, restricted=restricted, **given)


def predict(student: str | Path, texts: Sequence[str]) -> list[Answer]:
    """Label and probability of each text, by a student: an exported folder, a student's id, or a dataset."""
    from graft.flows.export_student import open_student

    return open_student(str(student)).predict(list(texts))


def compare(a: str, b: str, *, test: str | None = None) -> Paired:
    """Whether student b is better than a on the same rows, as `graft compare` tests; `test` names one held-out file."""
    from graft.cli.students import paired

    return paired(a, b, test)


def clean(*, yes: bool = False, models: bool = False) -> Cleaned:
    """List files that the home can do without; `yes` deletes them, with `models` also joined models no recipe names."""
    from graft.flows.clean import clean as free
    from graft.schemas.home import Home

    return free(Home.find(create=False), yes=yes, models=models)


def _named(recipe: AnyRecipe) -> str:
    """The name under which flows find a recipe."""
    if isinstance(recipe, str | Path):
        return str(recipe)
    from graft.schemas.load import hold

    return hold(recipe)


def _awaitable(fn: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """The same function for `await`: it works on a thread of its own, and cancelling stops it in order."""

    @wraps(fn)
    async def call(*args: P.args, **given: P.kwargs) -> T:
        from graft.flows.engine import awaited

        return await awaited(fn, *args, **given)

    call.__name__ = call.__qualname__ = f"a{fn.__name__}"
    return call


arun, apreview, alabel = _awaitable(run), _awaitable(preview), _awaitable(label)
ateacher, aimprove, atrain = _awaitable(teacher), _awaitable(improve), _awaitable(train)
