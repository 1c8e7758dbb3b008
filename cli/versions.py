"""Verbs for versions: diff, tag, edit, rebase, delete; and the lake's maintenance, maintain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.cli.options import ByOption, JsonFlag, RefArg, RestrictedFlag, user_name
from graft.schemas.sections import HIDDEN

if TYPE_CHECKING:
    from graft.data.diff import Diff
    from graft.data.edits import Rebased
    from graft.schemas.datasets import EditAction


def diff(
    a: Annotated[str, typer.Argument(help="the version before: demo@1, demo@prod", metavar="A")],
    b: Annotated[str, typer.Argument(help="the version after: demo@2, demo", metavar="B")],
    html: Annotated[Path | None, typer.Option(help="also write the diff as one HTML file", metavar="FILE")] = None,
    examples: Annotated[int, typer.Option(min=0, max=100, help="example rows of each kind of change")] = 3,
    restricted: RestrictedFlag = False,
    json: JsonFlag = False,
) -> None:
    """Compare two versions: rows, labels, splits, lengths, diversity, reviews.

    Example:  graft diff demo@1 demo --html diff.html
    """
    from graft.cli.show import as_json, console, print_section
    from graft.data.diff import diff as compare
    from graft.data.diff_view import sections
    from graft.data.lake import Lake
    from graft.data.versions import version
    from graft.schemas.home import Home

    with Lake.look(Home.find(create=False)) as lake:
        found = compare(lake, version(lake, a), version(lake, b), examples=examples, restricted=restricted)
    if html is not None:
        _write_html(found, html)
    if json:
        as_json(found.model_dump(mode="json"))
        return
    for section in sections(found):
        print_section(section)
    if html is not None:
        console().print(f"wrote {html}", markup=False, soft_wrap=True)


def _write_html(found: Diff, file: Path) -> None:
    from graft.data.diff_view import render_html
    from graft.schemas.errors import GraftError

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(render_html(found), encoding="utf-8")
    except OSError as error:
        raise GraftError(f"cannot be written: {error.strerror}", where=str(file), fix="another --html FILE") from error


def tag(
    ref: RefArg,
    name: Annotated[str | None, typer.Argument(help="tag to set; left out: list the tags", metavar="TAG")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="remove the tag")] = False,
    by: ByOption = "",
    json: JsonFlag = False,
) -> None:
    """Tag a version (`graft tag demo@3 prod` makes demo@prod mean demo@3), or list a dataset's tags.

    Example:  graft tag demo@3 prod
    """
    from graft.cli.show import as_json, console, table
    from graft.data.lake import Lake
    from graft.data.tags import remove_tag, set_tag, tags
    from graft.data.versions import version
    from graft.schemas.errors import GraftError
    from graft.schemas.home import Home

    if remove and name is None:
        raise GraftError("no tag is named", where="--remove", fix="graft tag demo prod --remove")
    with Lake.open(Home.find(), read_only=name is None) as lake:
        found = version(lake, ref)
        if name is not None:
            who = by or user_name()
            made = remove_tag(lake, found.dataset, name, by=who) if remove else set_tag(lake, found, name, by=who)
        all_of = tags(lake, found.dataset)
    if json:
        as_json([one.model_dump(mode="json") for one in all_of])
    elif name is not None:
        said = f"{name} is no longer a tag of {made.dataset}" if remove else f"{made.dataset}@{name} is {found.ref}"
        console().print(said, markup=False)
    elif all_of:
        rows = [[one.tag, f"{one.dataset}@{one.version}", one.by, f"{one.at:%Y-%m-%d %H:%M}"] for one in all_of]
        table(f"tags of {found.dataset}", ["tag", "version", "by", "set (UTC)"], rows)
    else:
        console().print(f"{found.dataset} has no tags. Set one:  graft tag {found.ref} prod", markup=False)


def edit(
    row: Annotated[str, typer.Argument(help="a row's id, or its first letters", metavar="ROW")],
    dataset: Annotated[
        str, typer.Option("--dataset", "-d", help="version that you are looking at: demo@3", metavar="REF")
    ],
    label: Annotated[str | None, typer.Option(help="correct label")] = None,
    text: Annotated[str | None, typer.Option(help="correct text")] = None,
    data: Annotated[
        str | None, typer.Option(help='columns to change, as JSON: \'{"other": "…"}\'', metavar="JSON")
    ] = None,
    reject: Annotated[bool, typer.Option("--reject", help="exclude the row")] = False,
    accept: Annotated[
        bool, typer.Option("--accept", help="include the row: undoes --reject, rescues a rejected candidate")
    ] = False,
    note: Annotated[str, typer.Option(help="reason, or a note on its own")] = "",
    by: ByOption = "",
    restricted: RestrictedFlag = False,
    json: JsonFlag = False,
) -> None:
    """Record a decision about a row; `graft rebase` publishes a version with all decisions.

    Example:  graft edit c_1f9a02 --dataset demo@3 --label billing --note "asks for an invoice"
    """
    from graft.cli.show import as_json, console
    from graft.data.edits import decide, record, without_words
    from graft.data.lake import Lake
    from graft.data.seen import seen
    from graft.data.versions import version
    from graft.schemas.errors import GraftError
    from graft.schemas.home import Home

    if reject and (accept or label is not None or text is not None or data is not None):
        raise GraftError(
            "a rejected row gets no label and no text", where=row, fix="use --reject alone, or leave it out"
        )
    with Lake.open(Home.find()) as lake:
        found = version(lake, dataset)
        action = _action(reject, accept, text, label, data)
        made = decide(
            lake, found, row, action, text=text, label=label, data=_columns(data), note=note, by=by or user_name()
        )
        hide = seen(lake, found, made.row_id).restricted and not restricted
        record(lake, [made])
    if json:
        dumped = made.model_dump(mode="json")
        as_json({**dumped, **(without_words(dumped) if hide else {})})
    else:
        console().print(f"recorded: {made.action} {made.row_id} of {found.ref}, by {made.by}", markup=False)
        console().print(f"publish it:  graft rebase {found.dataset}", markup=False)


def _columns(given: str | None) -> dict[str, Any] | None:
    """The columns of --data. Raises GraftError if they are no JSON object."""
    import json

    from graft.schemas.errors import GraftError

    if given is None:
        return None
    try:
        found = json.loads(given)
    except ValueError as error:
        raise GraftError(
            f"not JSON: {error}", where="--data", fix='an object of columns, such as {"spans": []}'
        ) from None
    if not isinstance(found, dict):
        raise GraftError("not a JSON object", where="--data", fix='an object of columns, such as {"spans": []}')
    return found


def _action(reject: bool, accept: bool, text: str | None, label: str | None, data: str | None) -> EditAction:
    if reject:
        return "reject"
    if accept:
        return "accept"
    return "edit" if text is not None or data is not None else "relabel" if label is not None else "note"


def rebase(
    ref: RefArg,
    force: Annotated[bool, typer.Option("--force", help="also apply conflicting edits")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the changes; publish nothing")] = False,
    restricted: RestrictedFlag = False,
    json: JsonFlag = False,
) -> None:
    """Apply people's edits, made on any version, to this version and publish the result.

    Example:  graft rebase demo --dry-run
    """
    from graft.cli.show import as_json
    from graft.data.edits import rebase as rebase_edits
    from graft.data.lake import Lake
    from graft.data.versions import version
    from graft.schemas.home import Home

    with Lake.open(Home.find(), read_only=dry_run) as lake:
        made = rebase_edits(lake, version(lake, ref), force=force, dry_run=dry_run)
    if json:
        as_json(_rebased(made, restricted))
    else:
        _print_rebased(made, dry_run, restricted)


def _rebased(made: Rebased, restricted: bool) -> dict[str, Any]:
    """As JSON, with the text of restricted rows hidden."""
    from graft.data.edits import without_words

    dumped = made.model_dump(mode="json")
    for conflict in dumped["conflicts"]:
        if conflict["restricted"] and not restricted:
            edit = conflict["edit"]
            edit.update(without_words(edit))
    return dumped


def _print_rebased(made: Rebased, dry_run: bool, restricted: bool) -> None:
    from graft.cli.show import console, table

    counted = ("relabelled", "edited", "rejected", "rescued")
    rows: list[list[Any]] = [[name, len(getattr(made, name))] for name in counted]
    rows.append(["conflicts, not applied", len(made.conflicts)])
    rows.append(["rows not in this version", len(made.absent)])
    table(f"edits onto {made.onto}", ["what", "rows"], rows, right=("rows",))
    if made.conflicts:
        view = [
            [c.edit.row_id, c.edit.action, f"repeats {c.repeats}" if c.repeats else c.field,
             f"{c.edit.dataset}@{c.edit.version}", c.edit.by,
             HIDDEN if c.restricted and not restricted else c.edit.note]
            for c in made.conflicts
        ]  # fmt: skip
        table("conflicts", ["row", "action", "differs", "made on", "by", "note"], view)
        console().print("edit each row on this version, or apply all with --force (repeats stay out)")
    if made.version:
        console().print(f"published {made.version}", markup=False)
    else:
        console().print("nothing was published" if dry_run else "the edits change nothing: no version was made")


def delete(
    ref: RefArg,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="skip the confirmation")] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="delete even if a tag points to it or the new latest version holds recalled rows"),
    ] = False,
    reason: Annotated[str, typer.Option(help="reason, kept with the version's number")] = "",
    by: ByOption = "",
    json: JsonFlag = False,
) -> None:
    """Delete a version after showing what depends on it. Its number is not used again.

    Example:  graft delete demo@2 --reason "mislabelled"
    """
    from graft.cli.show import as_json, console
    from graft.data.delete import delete as delete_version
    from graft.data.delete import dependents
    from graft.data.lake import Lake
    from graft.data.versions import version
    from graft.schemas.errors import GraftError
    from graft.schemas.home import Home

    with Lake.open(Home.find()) as lake:
        found = version(lake, ref)
        named = dependents(lake, found)
        if not json:
            _print_dependents(found.ref, found.rows, named.model_dump())
        if named.tags and not force:
            fix = f"graft tag {found.dataset}@OTHER {named.tags[0]}, or --force"
            raise GraftError(f"{found.ref} has the tag {', '.join(named.tags)}", where=found.ref, fix=fix)
        if json and not yes:
            raise GraftError("--json cannot ask for confirmation", where=found.ref, fix="--yes")
        if not yes and not typer.confirm(f"delete {found.ref} and its {found.rows:,} rows?"):
            console().print("nothing was deleted")
            raise typer.Exit(1)
        made = delete_version(lake, found, by=by or user_name(), reason=reason, force=force)
    if json:
        as_json({"deletion": made.model_dump(mode="json"), "dependents": named.model_dump(mode="json")})
    else:
        console().print(f"deleted {found.ref}. Its files are removed with old snapshots:  graft maintain", markup=False)


def _print_dependents(ref: str, rows: int, named: dict[str, Any]) -> None:
    from graft.cli.show import console, table

    view = [[name, value if isinstance(value, int) else "\n".join(value)] for name, value in named.items() if value]
    if view:
        table(f"{ref}: dependents", ["kind", "names"], view)
        console().print("students, evaluations, derived versions and exported files stay")
    else:
        console().print(f"nothing depends on {ref} ({rows:,} rows)", markup=False)


def maintain(
    older_than: Annotated[float, typer.Option(min=0, help="days that a snapshot is kept", metavar="DAYS")] = 30.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the changes; make none")] = False,
    json: JsonFlag = False,
) -> None:
    """Merge the lake's small files, expire old snapshots, delete unused files. Runs may continue meanwhile.

    Example:  graft maintain --older-than 7
    """
    from graft.cli.show import as_json, console, table
    from graft.flows.maintain import maintain_now

    made = maintain_now(older_than=older_than, dry_run=dry_run)
    if json:
        as_json(made.model_dump(mode="json"))
        return
    before, after = ({one.table: one for one in side} for side in (made.before, made.after))
    numbers = ("files before", "files after", "bytes before", "bytes after")
    rows: list[list[Any]] = []
    for name in dict.fromkeys((*before, *after)):
        pair = (before.get(name), after.get(name))
        files, sizes = ([getattr(one, field, 0) for one in pair] for field in ("files", "bytes"))
        rows.append([name or "(elsewhere)", *(f"{number:,}" for number in (*files, *sizes))])
    files, sizes = ([sum(getattr(one, field) for one in side) for side in (made.before, made.after)]
                    for field in ("files", "bytes"))  # fmt: skip
    rows.append(["all", *(f"{number:,}" for number in (*files, *sizes))])
    table("the lake's files", ["table", *numbers], rows, right=numbers)
    would = "would be " if dry_run else ""
    console().print(
        f"{would}merged {made.merged:,} files, rewritten {made.rewritten:,}, expired {made.expired:,} snapshots"
        f" ({made.kept:,} older ones kept for versions), deleted {made.removed:,} unused and {made.orphans:,} stray"
        f" files in {made.seconds:.1f} s; {made.waiting:,} files wait for an hour to pass"
    )
