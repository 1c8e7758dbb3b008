"""A student's export: the ONNX model is the student, the card's snippets run, nothing is half written."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny_encoder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graft.data.lake import Lake
from graft.data.versions import publish
from graft.schemas.base import utc_now
from graft.schemas.datasets import Row, Run
from graft.schemas.errors import GraftError, NotFound, StorageFull
from graft.schemas.home import Home
from graft.schemas.students import ClassScore, Evaluation, Student, StudentSettings
from graft.students.heads import Rule
from graft.students.heads.single import Single
from graft.students.predict import Predictor

ROOT = Path(__file__).resolve().parent.parent
LABELS = ("delivery", "billing", "a <b>|odd*")
SEEDS = [
    ("where is my parcel", "delivery"), ("the courier never came", "delivery"), ("I was charged twice", "billing"),
    ("please send me an invoice", "billing"), ("something else", LABELS[2]),
]  # fmt: skip
TERMS = "## Models and their terms\n\n| model |\n| --- |\n| writer |\n\n- writer: the Gemma Terms of Use count.\n"


@dataclass
class Made:
    """A student in a home of its own, exported."""

    home: Home
    model: Any
    student: Student
    folder: Path
    difference: float


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A small random BERT, its layer started from the seeds, saved, judged, and exported once."""
    from graft.flows.export_student import export_student
    from graft.students.classifier import TextClassifier
    from graft.students.encoder import Encoder
    from graft.students.fit import save

    home = Home(tmp_path_factory.mktemp("home"))
    model = TextClassifier.start(Encoder(str(_tiny(home.root / "tiny")), "", ""), Single(LABELS), 16)
    model.imprint(SEEDS)
    student = _student(home, "st_version", 1, str(home.root / "tiny"))
    save(model, home.root / student.path)
    _fill_lake(home, student)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_HOME", str(home.root))
        done = export_student("shop")
    return Made(home, model, student, done.folder, done.difference)


def _tiny(folder: Path) -> Path:
    return tiny_encoder.write(folder, [*(text for text, _ in SEEDS), *"abcdefgh"], layers=2)


def _student(home: Home, name: str, version: int | None, encoder: str) -> Student:
    return Student(
        id=name, dataset="shop", version=version, trained_on="version" if version else "seeds",
        settings=StudentSettings(encoder=encoder, max_length=16), encoder_revision="sha256:0", train_rows=5,
        device="cpu", seconds=1, path=f"students/{name}", created_at=utc_now(),
    )  # fmt: skip


def _judged(student: str, accuracy: float, **more: Any) -> Evaluation:
    scores = [ClassScore(label=label, precision=0.5, recall=0.5, f1=0.5, support=n) for label, n in
              zip(LABELS, (30, 10, 0), strict=True)]  # fmt: skip
    return Evaluation(
        student_id=student, test_file="/home/me/held|out.csv", test_hash="h1", rows=40, accuracy=accuracy,
        macro_f1=accuracy, classes=tuple(scores), confusion=((0,) * 3,) * 3, labels=LABELS, interval=(0.7, 0.9),
        majority=0.75, **more,
    )  # fmt: skip


def _fill_lake(home: Home, student: Student) -> None:
    recipe = {
        "name": "shop", "task": {"kind": "classification", "labels": [{"name": label} for label in LABELS]},
        "seeds": {"rows": [{"text": text, "label": label} for text, label in SEEDS]}, "licence": "CC-BY-4.0",
        "models": [{"name": "writer", "provider": "openai", "model": "gemma", "base_url": "http://127.0.0.1:9/v1"}],
        "roles": {role: {"models": ["writer"]} for role in ("generator", "reviewer", "adjudicator")},
    }  # fmt: skip
    run = Run(id="r1", dataset="shop", recipe=recipe, status="finished", started_at=utc_now(), code_version="1")
    rows = [Row(id=f"c{n}", text=f"SECRET {text}", label=label, split="train", restricted=n == 0)
            for n, (text, label) in enumerate(SEEDS)]  # fmt: skip
    base = _student(home, "st_seeds", None, "")
    with Lake.open(home) as lake:
        lake.save_run(run)
        publish(lake, run=run, rows=rows, models={"writer": "gemma"}, seeds=5, card=f"# shop\n\n{TERMS}\n## Use\n\nx\n")
        lake.save_student(student)
        lake.save_student(base)
        lake.save_evaluation(_judged(student.id, 0.8, ece=0.2, ece_scaled=0.1, temperature=2.0))
        lake.save_evaluation(_judged(base.id, 0.6))


@given(st.lists(st.text(max_size=60), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_onnx_gives_what_pytorch_gives_for_any_texts(made: Made, texts: list[str]) -> None:
    found = Predictor.open(made.folder, engine="onnx", rule=Rule()).predict(texts)
    labels, shares = made.model.predict(texts)
    for answer, share in zip(found, shares, strict=True):
        assert answer.probabilities == pytest.approx(share, abs=1e-4)
        assert answer.probability == pytest.approx(max(share), abs=1e-4)
    assert len(labels) == len(found)


def test_every_way_to_open_a_student_gives_the_same(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    from graft.flows.export_student import open_student

    monkeypatch.setenv("GRAFT_HOME", str(made.home.root))
    texts = [text for text, _ in SEEDS]
    opened = [open_student(name) for name in ("shop", "shop@1", "st_version", str(made.folder))]
    opened += [Predictor.open(made.folder, engine="pytorch"), open_student("shop", engine="pytorch")]
    assert [one.engine for one in opened] == ["onnx"] * 4 + ["pytorch"] * 2
    for one in opened:
        assert one.rule == Rule(temperature=2.0)
        for ours, first in zip(one.predict(texts), opened[0].predict(texts), strict=True):
            assert ours.label == first.label and ours.probabilities == pytest.approx(first.probabilities, abs=1e-4)
    os.utime(made.folder / "labels.json", (0, 0))  # an export of what was trained again since
    assert open_student("shop").engine == "pytorch"
    os.utime(made.folder / "labels.json")
    with pytest.raises(NotFound, match=r"no student 'shoe'.*\n.*one of: shop, "):
        open_student("shoe")


def test_the_exported_folder_answers_without_torch(made: Made) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'duckdb', 'prefect'): sys.modules[name] = None\n"
        "from graft.cli.app import main\n"
        f"sys.argv = ['graft', 'predict', {str(made.folder)!r}, '-']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=b"where is my parcel\n\nI was charged twice\n", capture_output=True,
        cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["where is my parcel", "I was charged twice"]
    assert [row["label"] for row in rows] == made.model.predict([row["text"] for row in rows])[0]


def test_the_cards_snippets_run_as_they_stand_and_agree(made: Made) -> None:
    card = (made.folder / "README.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert ["onnxruntime" in code for code in snippets] == [True, False]
    output = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=made.folder, capture_output=True, text=True, timeout=120, check=True
        ).stdout
        for code in snippets
    ]
    ours = Predictor.open(made.folder).predict(["where is my parcel?", "I was charged twice"])
    pairs = re.compile(r"\('(.*?)', ([\d.]+)\)")
    for text in output:
        found = pairs.findall(text)
        assert [label for label, _ in found] == [answer.label for answer in ours]
        assert [float(share) for _, share in found] == pytest.approx([answer.probability for answer in ours], abs=2e-4)


def test_the_card_lists_a_students_origin_and_its_failures(made: Made) -> None:
    card = (made.folder / "README.md").read_text()
    for text in (
        "dataset shop@1, content hash ".replace("@", "\\@"), "5 rows (train 5)", "5 seeds (licence: CC\\-BY\\-4\\.0)",
        "writer: the Gemma Terms of Use count.", "| 80.0% | 70.0% to 90.0% |", "| 60.0% | +20.0 points |",
        "calibration error on held\\|out\\.csv: 20.0%, 10.0% with", "temperature 2:", "no threshold",
        "has no rows of 1 labels", "is small (40 rows)", "reads 16 tokens", "language en",
        "1 rows of the dataset are restricted", "a &lt;b&gt;\\|odd\\*",
    ):  # fmt: skip
        assert text in card, text
    assert all(hidden not in card for hidden in ("SECRET", "<b>", "/home/me"))


def test_the_folder_holds_all_of_it(made: Made) -> None:
    files = {path.name for path in made.folder.iterdir()}
    assert len({path.stat().st_mode for path in made.folder.iterdir()}) == 1
    assert {"model.onnx", "model.safetensors", "config.json", "tokenizer.json", "labels.json", "README.md"} <= files
    facts = json.loads((made.folder / "labels.json").read_text())
    assert facts["labels"] == list(LABELS) and facts["max_length"] == 16 and facts["temperature"] == 2.0
    assert set(facts["files"]) == files
    assert 0 <= made.difference <= 1e-4
    assert [path.name for path in made.home.exports.iterdir()] == ["st_version"]


@pytest.fixture
def same_graph(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter takes seconds: what it made once is put in its place."""

    def put(model: Any, file: Path) -> None:
        file.write_bytes((made.folder / "model.onnx").read_bytes())

    monkeypatch.setattr("graft.students.onnx._graph", put)


def _export(made: Made, folder: Path, **more: Any) -> float:
    from graft.students.onnx import export_folder

    model = more.pop("model", made.model)
    return export_folder(model, folder, student="st", rule=Rule(), card=lambda worst: f"{worst}", **more)


@pytest.mark.usefixtures("same_graph")
def test_a_graph_that_is_not_the_student_is_refused_with_the_difference(made: Made, tmp_path: Path) -> None:
    import torch

    other = copy.deepcopy(made.model)
    with torch.no_grad():
        other.head.bias[1] += 0.25
    with pytest.raises(GraftError, match=r"a logit differs by 0\.25, allowed is 0\.001"):
        _export(made, tmp_path / "out", model=other)
    assert not list(tmp_path.iterdir())


def test_an_encoder_that_cannot_be_exported_is_reported(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(self: Any, *ids: Any) -> Any:
        return ids[0][: int(ids[0].sum())]

    monkeypatch.setattr("graft.students.onnx.Graph.forward", odd)
    with pytest.raises(GraftError, match=r"this encoder cannot be exported to ONNX: [^\x1b]+$"):
        _export(made, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_sample_reaches_from_one_word_to_beyond_the_longest_text() -> None:
    from graft.students.onnx import sample_texts

    counts = [len(text.split()) for text in sample_texts(64)]
    assert len(set(counts)) == 32 and counts[0] == 1 and counts[-1] > 64


@pytest.mark.usefixtures("same_graph")
def test_an_export_replaces_only_an_export_and_only_on_request(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    _export(made, folder)
    before = (folder / "README.md").stat().st_ino
    with pytest.raises(GraftError, match="this export exists already"):
        _export(made, folder)
    assert _export(made, folder, overwrite=True) < 1e-4
    assert (folder / "README.md").stat().st_ino != before
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(GraftError, match=r"holds files that no export wrote: notes\.txt"):
        _export(made, folder, overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("same_graph")
def test_a_full_disk_leaves_the_earlier_export(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    folder = tmp_path / "out"
    _export(made, folder)
    monkeypatch.setattr("graft.students.onnx._list_files", full)
    with pytest.raises(StorageFull, match="no space left for the export"):
        _export(made, folder, overwrite=True)
    assert Predictor.open(folder).predict(["where is my parcel"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_broken_model_file_is_reported(made: Made, tmp_path: Path) -> None:
    for name in ("labels.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((made.folder / name).read_bytes())
    (tmp_path / "model.onnx").write_bytes((made.folder / "model.onnx").read_bytes()[:1000])
    with pytest.raises(GraftError, match="this ONNX model cannot be read"):
        Predictor.open(tmp_path)
    (tmp_path / "labels.json").write_text("{}")
    with pytest.raises(GraftError, match=r"labels\.json was not written by Graft"):
        Predictor.open(tmp_path)
    with pytest.raises(NotFound, match="no student found"):
        Predictor.open(tmp_path / "none")
