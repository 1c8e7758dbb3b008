"""Several processes train what one trains; they end with the process that started them; errors are reported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import tiny_encoder
import torch
from tiny_encoder import LABELS, ROWS

from graft.schemas.errors import GraftError, InputInvalid, NotFound, StorageFull
from graft.schemas.students import StudentSettings
from graft.students import launch
from graft.students.classifier import TextClassifier
from graft.students.fit import fit
from graft.students.jobs import Job, read_job, write_job
from graft.students.launch import train_classifier
from graft.students.rows import TrainRow, as_rows

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def of_children(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def settings(tmp_path: Path) -> StudentSettings:
    """Without dropout, the only thing that differs between one process and several."""
    folder = tiny_encoder.write(tmp_path / "encoder", [text for text, _ in ROWS])
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return StudentSettings.model_validate({"encoder": str(folder), **tiny_encoder.SETTINGS, "patience": 9})


def job(out: Path, settings: StudentSettings | None = None, **changes: object) -> Job:
    held = Job(tuple(as_rows(ROWS)), (), tuple(LABELS), settings or StudentSettings(), out)
    return launch.replace(held, **changes)


def script(folder: Path, text: str) -> tuple[str, ...]:
    """A program in the place of the processes that train: `rank`, `folder` (the job's) and `json` are known in it."""
    file = folder / "stand_in.py"
    head = "import json, os, sys, time\nfrom pathlib import Path\n"
    head += "rank, folder = int(os.environ['RANK']), Path(sys.argv[1]).parent\n"
    file.write_text(head + text, encoding="utf-8")
    return sys.executable, str(file)


def own_children(others: set[psutil.Process]) -> list[psutil.Process]:
    """This process's children and theirs, but for those that were there before, such as the session's own server."""
    mine = [child for child in psutil.Process().children() if child not in others]
    return [*mine, *(below for child in mine for below in child.children(recursive=True))]


# ---- as one process


def test_two_processes_train_the_weights_of_one_and_listen_on_loopback_only(
    tmp_path: Path, settings: StudentSettings
) -> None:
    messages: list[str] = []
    steps: list[tuple[int, int]] = []
    heard: set[tuple[int, str]] = set()
    others = set(psutil.Process().children())

    def progress(done: int, of: int) -> None:
        steps.append((done, of))
        for child in own_children(others):
            heard.update((child.pid, c.laddr.ip) for c in child.net_connections("inet") if c.status == "LISTEN")

    result = train_classifier(
        ROWS,
        LABELS,
        settings,
        tmp_path / "st",
        say=messages.append,
        progress=progress,
        validation=ROWS[:3],
        processes=2,
    )
    alone = fit(ROWS, LABELS, settings, validation=ROWS[:3])
    kept = TextClassifier.load(tmp_path / "st").state_dict()
    assert max(float((kept[name] - held).abs().max()) for name, held in alone.model.state_dict().items()) < 1e-4
    assert (result.loss, result.best) == (pytest.approx(alone.loss, abs=1e-5), alone.best)
    assert result.device == "cpu x 2" and result.tokens_per_second > 0 and result.peak_share is None
    assert steps == [(done, 60) for done in range(1, 61)]
    assert "training by 2 processes" in messages and any(text.startswith("step 15 of 60, loss ") for text in messages)
    assert messages.count("12 rows are few: 60 steps instead of 36") == 1
    assert len({pid for pid, _ in heard}) == 2 and {address for _, address in heard} == {"127.0.0.1"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["encoder", "st"]
    assert not own_children(others)


def test_more_than_one_gpu_makes_as_many_processes(
    tmp_path: Path, settings: StudentSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[int] = []
    monkeypatch.setattr(launch, "train_together", lambda job, processes, say, progress: requests.append(processes))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    train_classifier(ROWS, LABELS, settings, tmp_path / "st")
    with pytest.raises(GraftError, match="two classes"):
        train_classifier(ROWS[:2], LABELS, settings, tmp_path / "st")
    assert requests == [4]


def test_each_process_has_a_gpu_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [launch._environment(tmp_path, n, 2)["CUDA_VISIBLE_DEVICES"] for n in (0, 1)] == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-ab")
    assert [launch._environment(tmp_path, n, 2)["CUDA_VISIBLE_DEVICES"] for n in (0, 1)] == ["5", "GPU-ab"]
    monkeypatch.setattr("graft.students.launch.pick_device", lambda: torch.device("cuda"))
    with pytest.raises(GraftError, match="3 processes, but 2 GPUs"):
        launch.train_together(job(tmp_path / "st"), 3, print, None)


# ---- what goes wrong


def test_a_diverged_training_is_reported_as_by_one_process(tmp_path: Path, settings: StudentSettings) -> None:
    wild = settings.model_copy(update={"learning_rate": 0.99, "patience": None, "batch_size": 1})
    with pytest.raises(GraftError, match="training diverged") as caught:
        train_classifier(ROWS, LABELS, wild, tmp_path / "st", processes=2)
    assert caught.value.where == "student.learning_rate" and "lower it" in caught.value.fix
    assert sorted(p.name for p in tmp_path.iterdir()) == ["encoder"]


def test_a_process_that_ends_without_a_word_ends_the_others(tmp_path: Path) -> None:
    dies = script(tmp_path, "if rank == 1:\n    sys.exit('Bus error in the second')\ntime.sleep(60)")
    started = time.monotonic()
    with pytest.raises(GraftError, match=r"process 1 of 2 ended \(1\): Bus error in the second"):
        launch.train_together(job(tmp_path / "st"), 2, print, None, dies)
    assert time.monotonic() - started < 20
    assert [p.name for p in tmp_path.iterdir()] == ["stand_in.py"]


def test_a_full_disk_keeps_its_class(tmp_path: Path) -> None:
    facts = {"kind": "StorageFull", "what": "no space", "where": "/there", "fix": "free space"}
    full = script(tmp_path, f"(folder / 'error-0.json').write_text(json.dumps({facts}))\nsys.exit(9)")
    with pytest.raises(StorageFull, match="no space"):
        launch.train_together(job(tmp_path / "st"), 1, print, None, full)


def test_memory_that_runs_out_halves_the_batch_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.TextClassifier, "load", lambda folder: folder)  # the stand-ins write none
    facts = {"device": "cpu x 2", "seconds": 1.0, "steps": 9, "loss": 0.5, "epochs": 3.0}
    small = script(
        tmp_path,
        "size = json.loads(Path(sys.argv[1]).read_text())['batch_size'] or 16\n"
        "print('a library says something')\n"
        "print(json.dumps({'say': f'batches of {size}'}), flush=True)\n"
        "if size > 4 and rank == 1:\n"
        "    (folder / 'error-1.json').write_text(json.dumps({'kind': 'memory', 'batch_size': size}))\n"
        "    time.sleep(0.5)\n    sys.exit(1)\n"
        "if size > 4:\n    time.sleep(60)\n"
        f"(folder / 'result.json').write_text(json.dumps({facts}))\n",
    )
    messages: list[str] = []
    result = launch.train_together(job(tmp_path / "st"), 2, messages.append, None, small)
    assert (result.loss, result.model) == (0.5, tmp_path / "st")
    assert [text for text in messages if text.startswith("not enough")] == [
        f"not enough memory: starting again with batches of {size}" for size in (8, 4)
    ]
    assert messages[-1] == "batches of 4" and "a library says something" not in messages


# ---- they end with the one that started them


def test_the_processes_end_when_a_person_stops_the_training(tmp_path: Path) -> None:
    goes_on = script(tmp_path, "print(json.dumps({'progress': [1, 9]}), flush=True)\ntime.sleep(60)")

    others = set(psutil.Process().children())

    def stop(done: int, steps: int) -> None:
        assert len(own_children(others)) == 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch.train_together(job(tmp_path / "st"), 2, print, stop, goes_on)
    assert not own_children(others)
    assert [p.name for p in tmp_path.iterdir()] == ["stand_in.py"]


def test_the_processes_end_when_the_one_that_started_them_is_killed(tmp_path: Path) -> None:
    waits = script(
        tmp_path,
        "from graft.students.launch import _end_with_parent\n_end_with_parent()\n"
        "print(json.dumps({'progress': [1, 9]}), flush=True)\ntime.sleep(60)",
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, json.dumps(waits), str(tmp_path / "st")], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    with parent, parent.stdout as output:
        children = [psutil.Process(pid) for pid in json.loads(output.readline())]
        assert len(children) == 2
        os.kill(parent.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(children, timeout=10)
        assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []


PARENT = """
import json, sys
from pathlib import Path
import psutil
from graft.schemas.students import StudentSettings
from graft.students.jobs import Job
from graft.students.launch import train_together
def progress(done, steps):
    print(json.dumps([child.pid for child in psutil.Process().children()]), flush=True)
train_together(Job((), (), ("a", "b"), StudentSettings(), Path(sys.argv[2])), 2, lambda text: None, progress,
               json.loads(sys.argv[1]))
"""


# ---- job files


def test_a_job_that_was_written_is_read_as_it_was(tmp_path: Path) -> None:
    rows = (TrainRow("one\u2028line\n\"'{{x}}", "a", (0.25, 0.75), ("a", "b")), TrainRow("", "b"))
    written = job(tmp_path / "out", rows=rows, validation=rows[:1], labels=("a", "b"), batch_size=3)
    write_job(written, tmp_path)
    assert read_job(tmp_path / "job.json") == written


def test_rows_may_be_parquet_and_paths_start_at_the_job(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = {"text": ["x", "y"], "label": ["a", "b"], "soft": [[0.5, 0.5], None]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
    (tmp_path / "job.json").write_text(json.dumps({"rows": "rows.parquet", "labels": ["a", "b"], "out": "st"}))
    found = read_job(tmp_path / "job.json")
    assert found.rows == (TrainRow("x", "a", (0.5, 0.5)), TrainRow("y", "b")) and found.out == tmp_path / "st"


@pytest.mark.parametrize(
    ("line", "named"), [('{"text": "x"}', "label"), ("[1]", "rows.jsonl:2"), ('{"text": "x", "label": 3}', "label")]
)
def test_a_row_that_cannot_be_used_is_named(tmp_path: Path, line: str, named: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "x", "label": "a"}\n' + line, encoding="utf-8")
    (tmp_path / "job.json").write_text(json.dumps({"rows": "rows.jsonl", "labels": ["a", "b"], "out": "st"}))
    with pytest.raises(InputInvalid, match=r"rows\.jsonl:2") as caught:
        read_job(tmp_path / "job.json")
    assert named in str(caught.value)


def test_a_job_or_rows_that_are_not_there_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.json").write_text(json.dumps({"rows": "none.jsonl", "labels": ["a", "b"], "out": "st"}))
    with pytest.raises(NotFound, match=r"none\.jsonl"):
        read_job(tmp_path / "job.json")
    assert launch.main([str(tmp_path / "no.json")]) == 8
    assert "no.json: no such file" in capsys.readouterr().err
