"""Trains a classifier by one process, or by one for each GPU: starts, watches and runs them.

`train_classifier` starts them itself if there is more than one GPU. By hand, on a job file:

    python -m graft.students.launch JOB.json --processes 4
    accelerate launch --num_processes 4 -m graft.students.launch JOB.json        (or torchrun --nproc-per-node 4 -m ...)

The first way finds its processes through a file and the loopback interface. Accelerate and torchrun start a store of
their own, which chooses its own address. Loads torch.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed as dist

from graft.schemas import errors
from graft.schemas.errors import GraftError
from graft.schemas.home import python_path
from graft.schemas.students import StudentSettings
from graft.students.checkpoint import NAME
from graft.students.classifier import TextClassifier
from graft.students.device import pick_device
from graft.students.distributed import ProcessGroup
from graft.students.fit import Fit, MemoryOut, check_rows, fit, halved, save, silent, staging
from graft.students.jobs import Job, read_job, write_job
from graft.students.loop import Progress, Say
from graft.students.rows import Given, as_rows

COMMAND = (sys.executable, "-m", "graft.students.launch")
"""Command of each process; the job file and --child follow."""

STORE = "GRAFT_PROCESS_STORE"
"""The environment variable that names the file through which processes find each other."""

PATIENCE = timedelta(minutes=30)
"""Longest time that a process waits for the others, such as for a checkpoint."""


# ---- the process that starts the others


def train_classifier(
    rows: Sequence[Given], labels: Sequence[str], settings: StudentSettings, out: Path, *,
    say: Say = silent, progress: Progress | None = None, validation: Sequence[Given] = (),
    processes: int | None = None,
) -> Fit:  # fmt: skip
    """Train on the rows and write the classifier to `out`, whole or not at all. Arguments and errors as `fit.fit`.

    A long training leaves checkpoints beside `out`, from which the same call resumes after a kill. `processes` is their
    number, by default one for each CUDA device; more than one run as child processes.
    """
    count = torch.cuda.device_count() if processes is None else processes
    if count > 1:
        check_rows(as_rows(rows), as_rows(validation) if settings.patience else [], labels, silent)
        job = Job(tuple(as_rows(rows)), tuple(as_rows(validation)), tuple(labels), settings, out)
        return train_together(job, count, say, progress)
    fitted = fit(rows, labels, settings, say, progress, validation=validation, checkpoints=staging(out))
    save(fitted.model, out)
    return fitted


def train_together(
    job: Job, processes: int, say: Say, progress: Progress | None, command: Sequence[str] = COMMAND
) -> Fit:
    """Train a job's classifier by this many processes and wait for them; they end with this process in any case.

    Each takes a share of every batch. If memory runs out, all start again with half the batch. Raises GraftError as
    `students.fit.fit`, if there are fewer GPUs than processes, and, with the end of its output, if a process dies.
    """
    _check_devices(processes)
    folder = job.out.with_name(job.out.name + ".job")
    say(f"training by {processes} processes")
    try:
        while True:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, mode=0o700)
            write_job(job, folder)
            try:
                _attempt(folder, processes, say, progress, command)
            except MemoryOut as error:
                job = replace(job, batch_size=halved(error.batch_size, say))
                (staging(job.out) / NAME).unlink(missing_ok=True)
                continue
            figures = json.loads((folder / "result.json").read_text(encoding="utf-8"))
            return Fit(TextClassifier.load(job.out), **figures)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_devices(processes: int) -> None:
    kind, there = pick_device().type, torch.cuda.device_count()
    if kind == "cuda" and there < processes:
        raise GraftError(
            f"{processes} processes, but {there} GPUs", where="--processes", fix="one process for each GPU"
        )  # fmt: skip
    if kind == "mps":
        raise GraftError("Apple's GPU is used by one process only", where="--processes", fix="leave it out")


def _attempt(folder: Path, processes: int, say: Say, progress: Progress | None, command: Sequence[str]) -> None:
    """One training by child processes, which are gone afterwards."""
    children: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(processes):
            with (folder / f"{rank}.log").open("wb") as log:
                children.append(_start(command, folder, rank, processes, log))
        _follow(children, say, progress)
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
    _raise_what_went_wrong(folder, [child.returncode for child in children])


def _start(
    command: Sequence[str], folder: Path, rank: int, processes: int, log: IO[bytes]
) -> subprocess.Popen[bytes]:  # fmt: skip
    return subprocess.Popen(
        [*command, str(folder / "job.json"), "--child"],
        env=_environment(folder, rank, processes), start_new_session=True, stderr=log,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
    )  # fmt: skip


def _environment(folder: Path, rank: int, processes: int) -> dict[str, str]:
    """A child's environment: its rank, the rendezvous file, the loopback interface for all traffic, its own GPU."""
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    added = {
        "RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(processes), STORE: str(folder / "store"),
        "GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback, "PYTHONPATH": python_path(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads), "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    if torch.cuda.device_count():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        added["CUDA_VISIBLE_DEVICES"] = visible[rank].strip() if len(visible) > rank and visible[rank] else str(rank)
    return {**os.environ, **added}


def _follow(children: Sequence[subprocess.Popen[bytes]], say: Say, progress: Progress | None) -> None:
    """Forward the first process's messages until all have ended, or one failed."""
    lines: queue.Queue[bytes | None] = queue.Queue()
    first = children[0].stdout
    assert first is not None
    reader = threading.Thread(target=_read, args=(first, lines), daemon=True)
    reader.start()
    ended = False
    while not (ended and all(child.poll() == 0 for child in children)):
        with contextlib.suppress(queue.Empty):
            line = lines.get(timeout=0.1)
            ended = ended or line is None
            _pass_on(line or b"", say, progress)
        if any(child.poll() for child in children):
            break
    for child in children:
        child.kill()
    reader.join()


def _read(pipe: IO[bytes], lines: queue.Queue[bytes | None]) -> None:
    for line in pipe:
        lines.put(line)
    lines.put(None)


def _pass_on(line: bytes, say: Say, progress: Progress | None) -> None:
    """One line of the first process: {"say": text} or {"progress": [done, of]}; other lines come from libraries."""
    try:
        event = json.loads(line)
    except ValueError:
        return
    match event:
        case {"say": str(text)}:
            say(text)
        case {"progress": [int(done), int(steps)]} if progress is not None:
            progress(done, steps)


def _raise_what_went_wrong(folder: Path, codes: Sequence[int]) -> None:
    """The error that a process wrote, else that one died. Returns nothing if there is a result."""
    if (folder / "result.json").is_file():
        return
    failures = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("error-*.json"))]
    for one in failures:
        if one["kind"] == "memory":
            raise MemoryOut(one["batch_size"])
    for one in failures:
        kind = getattr(errors, one["kind"]) if one["kind"] in _RAISED else GraftError
        raise kind(one["what"], where=one["where"], fix=one["fix"])
    rank = next((rank for rank, code in enumerate(codes) if code not in (0, -9)), 0)
    end = (folder / f"{rank}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
    raise GraftError(
        f"process {rank} of {len(codes)} ended ({codes[rank]}): " + (" | ".join(end)[-600:] or "it wrote nothing"),
        where="training", fix="run the same call again: it resumes from the last checkpoint",
    )  # fmt: skip


_RAISED = frozenset({"StorageFull", "MissingExtra", "NotFound"})
"""Errors that keep their class on the way from a process to the one that started it."""


# ---- one of the processes


@dataclass(frozen=True)
class _Voice:
    """A process's reporter: the first writes JSON lines if another process reads them; the others stay silent."""

    folder: Path
    rank: int
    child: bool

    def say(self, text: str) -> None:
        if self.rank == 0:
            print(json.dumps({"say": text}) if self.child else text, flush=True)

    def progress(self, done: int, steps: int) -> None:
        if self.child and self.rank == 0:
            print(json.dumps({"progress": [done, steps]}), flush=True)

    def failed(self, failure: Mapping[str, Any], text: str) -> None:
        print(text, file=sys.stderr, flush=True)
        if self.child:
            staged = self.folder / f"error-{self.rank}.part"
            staged.write_text(json.dumps(failure), encoding="utf-8")
            staged.replace(self.folder / f"error-{self.rank}.json")


def work(file: Path, child: bool) -> int:
    """One process's part of a training, from RANK, WORLD_SIZE and LOCAL_RANK as launchers set them. Returns the exit
    code."""
    voice = _Voice(file.parent, int(os.environ["RANK"]), child)
    if child:
        _end_with_parent()
    try:
        with _joined() as group:
            _train(read_job(file), group, voice)
    except MemoryOut as error:
        voice.failed(
            {"kind": "memory", "batch_size": error.batch_size},
            f"not enough memory for a share of {error.batch_size} rows: lower settings.batch_size of the job",
        )
        return 1
    except GraftError as error:
        failure = {"kind": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
        voice.failed(failure, str(error))
        return error.exit_code
    return 0


def _train(job: Job, group: ProcessGroup, voice: _Voice) -> None:
    """Train together; the first process writes the classifier, and its figures if another process waits for them."""
    fitted = fit(
        job.rows, job.labels, job.settings, voice.say, voice.progress, validation=job.validation,
        checkpoints=staging(job.out), group=group, batch_size=job.batch_size,
    )  # fmt: skip
    if group.rank:
        return
    save(fitted.model, job.out)
    if voice.child:
        (voice.folder / "result.json").write_text(json.dumps(fitted.figures), encoding="utf-8")
    else:
        voice.say(f"{job.out}: {json.dumps(fitted.figures)}")


@contextlib.contextmanager
def _joined() -> Iterator[ProcessGroup]:
    """Context with this process's group; torch's own group is open inside."""
    group = ProcessGroup(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if pick_device().type == "cuda":
        if local >= torch.cuda.device_count():
            raise GraftError(f"no GPU {local}", where="LOCAL_RANK", fix="start one process for each GPU")
        torch.cuda.set_device(local)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    meet = Path(os.environ[STORE]).as_uri() if STORE in os.environ else "env://"
    dist.init_process_group(backend, init_method=meet, rank=group.rank, world_size=group.size, timeout=PATIENCE)
    try:
        yield group
    finally:
        dist.destroy_process_group()


def _end_with_parent() -> None:
    """Exit at once when the process at the other end of stdin is gone."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: Sequence[str]) -> int:
    """The command line, as the module's docstring shows. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="graft.students.launch", description=__doc__.partition("\n")[0])
    parser.add_argument("job", type=Path, help="a job file, see docs/gpu.md")
    parser.add_argument("--processes", type=int, help="by default one for each GPU")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if "RANK" in os.environ:
        return work(given.job, given.child)
    try:
        job = read_job(given.job)
        result = train_classifier(
            job.rows, job.labels, job.settings, job.out, say=print, validation=job.validation, processes=given.processes
        )
    except GraftError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(result)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
