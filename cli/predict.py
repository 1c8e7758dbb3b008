"""Verbs that use a student: export-student, predict."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated

import typer


def export_student(
    student: Annotated[str, typer.Argument(help="a student's id, or a dataset: demo, demo@2", metavar="STUDENT")],
    out: Annotated[Path | None, typer.Option(help="folder; default GRAFT_HOME/exports/<id>")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an existing export")] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON for programs")] = False,
) -> None:
    """Write a student as an ONNX model, checked against PyTorch, with tokenizer, labels and a model card.

    Example:  graft export-student demo --out shop-model
    """
    from graft.cli.show import as_json, console
    from graft.flows.export_student import export_student as export

    done = export(student, out=out, overwrite=overwrite)
    if json:
        as_json({
            "student": done.student.id, "folder": str(done.folder), "difference": done.difference, "bytes": done.bytes
        })  # fmt: skip
        return
    view = console()
    view.print(f"wrote {done.folder} ({done.bytes / 1e6:,.0f} MB)", markup=False, soft_wrap=True)
    view.print(f"ONNX and PyTorch agree: over 32 texts no logit differs by more than {done.difference:.2g}")
    view.print(f"use it:  graft predict {done.folder} texts.csv", markup=False, soft_wrap=True)


def predict(
    student: Annotated[str, typer.Argument(help="an exported folder, a student's id, or a dataset", metavar="STUDENT")],
    file: Annotated[
        str, typer.Argument(help="a text, or a file: CSV, JSONL, Parquet, .txt; - for standard input", metavar="TEXT")
    ],
    text_field: Annotated[str, typer.Option(help="column with the text")] = "text",
    response_field: Annotated[str | None, typer.Option(help="guards: column with the response")] = None,
    out: Annotated[Path | None, typer.Option(help="file to write instead of standard output")] = None,
    format: Annotated[
        str, typer.Option("--format", "-f", help="jsonl or csv; default: the ending of --out, else jsonl")
    ] = "",
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="print the probability of every label")
    ] = False,
) -> None:
    """Label a text, or those of a file, with a student. Each output line has text, label and probability.

    Example:  graft predict demo "the lamp came broken"
    Example:  graft predict demo messages.csv --text-field message --out labels.csv
    """
    from graft.flows.export_student import open_student
    from graft.students.texts import is_text, read_texts, write_answers

    kind = format or ("csv" if out is not None and out.suffix.lower() == ".csv" else "jsonl")
    if kind not in ("jsonl", "csv"):
        raise typer.BadParameter("jsonl or csv", param_hint="--format")
    if out is not None and out.resolve() == Path(file).resolve():
        raise typer.BadParameter("it is also the input file", param_hint="--out")
    texts = read_texts(file, text_field=text_field, response_field=response_field)
    found = open_student(student)
    with _target(out) as stream:
        write_answers(
            found.stream(texts), stream, format=kind, labels=found.labels, all_shares=probabilities or is_text(file)
        )  # fmt: skip


@contextmanager
def _target(out: Path | None) -> Iterator[IO[str]]:
    """Standard output, or a file that gets its name once it is complete. Raises StorageFull."""
    import os
    import sys

    from graft.schemas.errors import NO_SPACE, GraftError, StorageFull

    if out is None:
        yield sys.stdout
        return
    staged = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with staged.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        staged.replace(out)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise StorageFull("no space left for the answers", where=str(out), fix="free space and repeat") from None
        raise GraftError(f"the answers cannot be written: {error}", where=str(out), fix="another --out") from None
    finally:
        staged.unlink(missing_ok=True)
