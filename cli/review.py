"""The verb for human review: the queue of rows that want a person's word, and how far people and judges agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from graft.cli.options import ByOption, JsonFlag, RefArg, RestrictedFlag, user_name

if TYPE_CHECKING:
    from graft.data.review import AgainstPeople, Agreement, Progress, Queue, QueueRule

RULES = "disagreement, margin, random, gate or query"


def review(
    ref: RefArg,
    rule: Annotated[str, typer.Option(help=f"which rows: {RULES}", metavar="RULE")] = "disagreement",
    size: Annotated[int, typer.Option(min=1, max=1_000, help="rows to show")] = 20,
    gate: Annotated[str, typer.Option(help="with --rule gate: of this gate or judge alone")] = "",
    where: Annotated[str, typer.Option(help="with --rule query: a condition such as length(text) > 200")] = "",
    seed: Annotated[int, typer.Option(help="of the order that is drawn; the same for everybody")] = 0,
    blind: Annotated[bool, typer.Option("--blind", help="rows that others decided and you did not")] = False,
    agreement: Annotated[bool, typer.Option("--agreement", help="how far people agree, and judges with them")] = False,
    by: ByOption = "",
    restricted: RestrictedFlag = False,
    json: JsonFlag = False,
) -> None:
    """Rows of a version that want a person's word, and why; with --agreement, how far people and judges agree.

    Decide in the browser:  graft dashboard, page Review.

    Example:  graft review demo --rule margin --size 10
    """
    if agreement:
        _agreement(ref, json)
        return
    from graft.cli.show import as_json
    from graft.data.lake import Lake
    from graft.data.review import gates, progress, queue
    from graft.data.versions import version
    from graft.schemas.home import Home

    with Lake.open(Home.find(), read_only=True) as lake:
        found = version(lake, ref)
        made = queue(
            lake, found, cast("QueueRule", rule),  # the queue refuses what is none
            by=by or user_name(), blind=blind, gate=gate, where=where, size=size, seed=seed, restricted=restricted,
        )  # fmt: skip
        far, refused = progress(lake, found), gates(lake, found) if rule == "gate" else []
    if json:
        as_json(
            {"queue": made.model_dump(mode="json"), "progress": far.model_dump(mode="json"), "gates": dict(refused)}
        )
        return
    _print_queue(found.ref, made, refused)
    _print_progress(far)


def _print_queue(ref: str, made: Queue, refused: list[tuple[str, int]]) -> None:
    from graft.cli.show import console, table

    if refused:
        rows: list[list[Any]] = [[name, f"{count:,}"] for name, count in refused]
        table("what its runs rejected rows by", ["gate or judge", "rows"], rows, right=("rows",))
    if not made.items:
        console().print(f"{ref}: nothing waits in the queue {made.rule}", markup=False)
        return
    rows = [[one.row_id, one.label, one.split or one.status, one.why, one.text] for one in made.items]
    table(f"{ref}: {made.rule}, {len(rows)} of {made.total:,}", ["row", "label", "where", "why", "text"], rows)


def _print_progress(far: Progress) -> None:
    from graft.cli.show import console

    who = ", ".join(f"{one.by} {one.decided:,}" for one in far.people)
    outside = f" and {far.outside:,} rejected candidates" if far.outside else ""
    console().print(
        f"decided: {far.decided:,} of {far.rows:,} rows{outside}" + (f" ({who})" if who else "")
        + f"; {far.skipped:,} skipped; {far.waiting:,} would change the version:  graft rebase {far.ref}",
        markup=False,
    )  # fmt: skip
    console().print("decide in the browser:  graft dashboard, page Review", markup=False)


def _agreement(ref: str, json: bool) -> None:
    from graft.cli.show import as_json
    from graft.data.lake import Lake
    from graft.data.review import against_people, agreement
    from graft.data.versions import version
    from graft.schemas.home import Home

    with Lake.open(Home.find(), read_only=True) as lake:
        dataset = version(lake, ref).dataset
        people, judges = agreement(lake, dataset), against_people(lake, dataset)
    if json:
        as_json({"agreement": people.model_dump(mode="json"), "against_people": judges.model_dump(mode="json")})
        return
    _print_people(dataset, people)
    _print_judges(judges)


def _print_people(dataset: str, people: Agreement) -> None:
    from graft.cli.show import console, table

    if people.equal is None:
        console().print(f"{dataset}: {people.missing}; a second person decides blind:  graft review {dataset} --blind")
        return
    alpha = people.missing if people.alpha is None else f"{people.alpha:.3f}"
    console().print(
        f"{dataset}: {people.rows:,} rows decided by two or more ({people.blind:,} blind), {people.equal:.1%} equal;"
        f" Krippendorff's alpha: {alpha}",
        markup=False,
    )
    rows: list[list[Any]] = [
        [one.a, one.b, f"{one.rows:,}", f"{one.equal:,}", None if one.kappa is None else f"{one.kappa:.3f}"]
        for one in people.pairs
    ]
    numbers = ("rows", "equal", "kappa")
    table("people with each other", ["one", "other", *numbers], rows, right=numbers)
    rows = [[one.row_id, ", ".join(f"{who}: {said}" for who, said in one.said.items())] for one in people.differ[:20]]
    if rows:
        table("rows on which they differ", ["row", "said"], rows)


def _print_judges(judges: AgainstPeople) -> None:
    from graft.cli.show import console, table

    if not judges.judges:
        console().print("nobody has decided a row that a model made: no judge can be measured")
        return
    rows: list[list[Any]] = [
        [one.kind, one.name, f"{one.rows:,}", f"{one.share:.1%}", f"{one.interval[0]:.1%} to {one.interval[1]:.1%}",
         f"{one.false_accepts:,}", f"{one.false_rejects:,}"]
        for one in judges.judges
    ]  # fmt: skip
    numbers = ("rows", "agrees", "95%", "false accepts", "false rejects")
    table(f"judges on {judges.rows:,} rows that people decided", ["judge", "name", *numbers], rows, right=numbers)
