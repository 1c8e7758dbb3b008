"""Weights, ids and folders of others: what they name is never run, and never leads out of the home."""

from __future__ import annotations

import ast
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_encoder
import tiny_llama

from graft.schemas.errors import GraftError, InputInvalid, NotFound
from graft.schemas.home import Home
from graft.schemas.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("graft/__init__.py", "schemas", "agents", "data", "students", "flows", "cli", "dashboard", "benchmarks")
DOOR = "schemas/pretrained.py"

MARKING = """
from pathlib import Path
from transformers import BertConfig, BertModel, BertTokenizerFast

Path({marker!r}).write_text("ran")


class Own(BertConfig):
    model_type = "own"


class OwnModel(BertModel):
    config_class = Own


class OwnTokenizer(BertTokenizerFast):
    pass
"""


class Marking:
    """Runs when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.marker, "ran"))


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """A file that whatever runs would write; it must not be there in the end."""
    file = tmp_path / "marker"
    yield file
    assert not file.exists()


@pytest.fixture(autouse=True)
def yes_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer yes to every prompt about running a model's code."""
    monkeypatch.setattr("builtins.input", lambda *request: "y")


def encoder(folder: Path) -> Path:
    return tiny_encoder.write(folder, [text for text, _ in tiny_encoder.ROWS])


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def with_code(folder: Path, marker: Path, file: str = "config.json") -> Path:
    """The model with a file of its own that its config names."""
    (folder / "own.py").write_text(MARKING.format(marker=str(marker)))
    if file == "config.json":
        names = {"AutoConfig": "own.Own", "AutoModel": "own.OwnModel", "AutoModelForCausalLM": "own.OwnModel"}
        edit(folder / file, model_type="own", auto_map=names)
    else:
        edit(folder / file, tokenizer_class="OwnTokenizer", auto_map={"AutoTokenizer": ["own.OwnTokenizer", None]})
    return folder


def as_pickle(folder: Path, marker: Path) -> Path:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Marking(marker)))
    return folder


def as_encoder(folder: Path) -> None:
    from graft.students.classifier import TextClassifier
    from graft.students.encoder import find_encoder
    from graft.students.heads.single import Single

    TextClassifier.start(find_encoder(str(folder)), Single(tiny_encoder.LABELS), 16)


def past_the_first_check(folder: Path) -> None:
    from graft.students.classifier import TextClassifier
    from graft.students.encoder import Encoder
    from graft.students.heads.single import Single

    TextClassifier.start(Encoder(str(folder), "", ""), Single(tiny_encoder.LABELS), 16)


@pytest.mark.parametrize("load", [as_encoder, past_the_first_check])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_an_encoder_that_names_code_of_its_own_is_refused(
    tmp_path: Path, marker: Path, load: Callable[[Path], None], file: str
) -> None:
    folder = with_code(encoder(tmp_path / "encoder"), marker, file)
    with pytest.raises(GraftError, match=r"names code of the model's own \(auto_map\)") as caught:
        load(folder)
    assert caught.value.fix and file in caught.value.what


@pytest.mark.parametrize("load", [as_encoder, past_the_first_check])
def test_an_encoder_whose_weights_are_a_pickle_is_refused(
    tmp_path: Path, marker: Path, load: Callable[[Path], None]
) -> None:
    folder = as_pickle(encoder(tmp_path / "encoder"), marker)
    with pytest.raises(GraftError, match=r"pytorch_model\.bin, which can run code") as caught:
        load(folder)
    assert "safetensors" in caught.value.fix


def test_an_attention_kernel_from_the_hub_is_refused(tmp_path: Path) -> None:
    folder = encoder(tmp_path / "encoder")
    edit(folder / "config.json", attn_implementation="somebody/kernel")
    with pytest.raises(GraftError, match="attn_implementation"):
        past_the_first_check(folder)


@pytest.mark.parametrize("break_it", [with_code, as_pickle])
def test_a_model_that_finds_names_brings_no_code(
    tmp_path: Path, marker: Path, break_it: Callable[[Path, Path], Path]
) -> None:
    from graft.data.gates import Needs
    from graft.data.gates.personal import PersonalGate
    from graft.schemas.rows import Proposal

    folder = break_it(encoder(tmp_path / "tagger"), marker)
    made = recipe(gates={"personal": {"kinds": ["name"], "names_model": str(folder)}})
    with pytest.raises(GraftError, match=r"names code|can run code"):
        PersonalGate(made, Needs()).check(Proposal("Anna Blum writes"))


def test_a_model_that_finds_names_finds_them(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForTokenClassification

    from graft.data.gates import Needs
    from graft.data.gates.personal import PersonalGate
    from graft.schemas.rows import Proposal

    folder = encoder(tmp_path / "tagger")
    config = BertConfig.from_pretrained(folder)
    config.id2label, config.label2id = {0: "B-PER"}, {"B-PER": 0}
    BertForTokenClassification(config).save_pretrained(folder)
    made = recipe(gates={"personal": {"kinds": ["name"], "names_model": str(folder)}})
    assert not PersonalGate(made, Needs()).check(Proposal("where is my parcel")).passed


@pytest.mark.parametrize("break_it", [with_code, as_pickle])
def test_an_instruct_base_with_code_or_a_pickle_is_refused(
    tmp_path: Path, marker: Path, break_it: Callable[[Path, Path], Path]
) -> None:
    from graft.students.instruct.base import find_base, load_model

    folder = break_it(tiny_llama.write(tmp_path / "base"), marker)
    with pytest.raises(GraftError, match=r"names code|can run code"):
        find_base(str(folder), tmp_path)
    with pytest.raises(GraftError, match=r"names code|can run code"):
        load_model(str(folder))


def student(home: Home, name: str = "st_1") -> Path:
    from graft.students.classifier import TextClassifier
    from graft.students.encoder import find_encoder
    from graft.students.heads.single import Single

    start = encoder(home.root / "start")
    model = TextClassifier.start(find_encoder(str(start)), Single(tiny_encoder.LABELS), 16)
    folder = home.students / name
    folder.mkdir(parents=True)
    model.save(folder)
    return folder


def test_a_student_of_somebody_elses_home_carries_no_code(tmp_path: Path, marker: Path) -> None:
    from graft.students.judge import student_judge
    from graft.students.predict import Predictor

    home = Home(tmp_path)
    folder = student(home)
    assert student_judge(home)("st_1", ["where is my parcel"])[0] == tuple(tiny_encoder.LABELS)
    for name in ("own.py", "encoder/optimizer.pt", "encoder/pytorch_model.bin"):
        (folder / name).write_bytes(pickle.dumps(Marking(marker)))
        for load in (lambda: student_judge(home)("st_1", ["where"]), lambda: Predictor.open(folder)):
            with pytest.raises(GraftError, match="can run code when it is loaded") as caught:
                load()
            assert Path(name).name in caught.value.what
        (folder / name).unlink()
    edit(folder / "encoder" / "config.json", auto_map={"AutoModel": "own.OwnModel"})
    with pytest.raises(GraftError, match="names code"):
        Predictor.open(folder)


def test_an_adapter_as_a_pickle_is_refused(tmp_path: Path, marker: Path) -> None:
    from peft import LoraConfig, get_peft_model

    from graft.students.instruct.base import find_base, load_model, quiet_libraries
    from graft.students.instruct.train import load_student

    base = find_base(str(tiny_llama.write(tmp_path / "base")), tmp_path)
    with quiet_libraries():
        made = get_peft_model(load_model(base.place), LoraConfig(r=2, target_modules=["q_proj"]))
    folder = tmp_path / "students" / "st_1"
    made.save_pretrained(folder)
    assert load_student(base, folder) is not None
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(GraftError, match=r"no adapter_model\.safetensors"):
        load_student(base, folder)
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Marking(marker)))
    with pytest.raises(GraftError, match="can run code"):
        load_student(base, folder)


def test_a_checkpoint_that_is_a_pickle_is_not_taken_up(tmp_path: Path, marker: Path) -> None:
    from graft.students.checkpoint import NAME, Checkpoint

    (tmp_path / NAME).write_bytes(pickle.dumps(Marking(marker), protocol=2))
    messages: list[str] = []
    assert Checkpoint(tmp_path, {}, messages.append).load() is None
    assert "starting again" in messages[0]


OUTSIDE = ["st_x/../../outside", "../outside", "st_", "st_a/b", "/etc", "st_x\n", "..", "st_x\0", "outside"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_id_that_is_no_students_leads_nowhere(tmp_path: Path, name: str) -> None:
    from graft.students.judge import student_judge

    home = Home(tmp_path / "home")
    (home.students / "st_x").mkdir(parents=True)
    student(Home(tmp_path / "other"), "outside").rename(tmp_path / "outside")
    with pytest.raises(NotFound, match="not a valid id"):
        student_judge(home)(name, ["where is my parcel"])


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", "/etc", "x\0", "x\n", ".hidden"])
def test_no_other_id_leads_out_of_the_home(tmp_path: Path, name: str) -> None:
    home = Home(tmp_path)
    for place in (home.run, home.export, home.improvement):
        with pytest.raises(NotFound, match="not a valid id"):
            place(name)
    assert home.run("shop-04c1@2").parent == home.runs


def recipe(**changes: Any) -> Recipe:
    base: dict[str, Any] = {
        "name": "shop", "task": {"kind": "classification", "labels": [{"name": "a"}, {"name": "b"}]},
        "seeds": {"rows": [{"text": "x", "label": "a"}, {"text": "y", "label": "b"}]},
    }  # fmt: skip
    return Recipe.model_validate({**base, **changes})


def test_a_recipe_cannot_name_a_student_elsewhere() -> None:
    judge = {"name": "mine", "provider": "encoder", "model": "st_x"}
    writer = {"name": "writer", "provider": "embedded", "model": "gemma-3-270m", "style": "completion"}
    assert recipe(models=[writer, judge]).models[1].model == "st_x"
    with pytest.raises(ValueError, match="a student's id is st_ followed by letters or digits"):
        recipe(models=[writer, {**judge, "model": "st_x/../../outside"}])
    with pytest.raises(ValueError, match="should match pattern"):
        recipe(gates={"toxicity": {"student": "../outside"}})


def test_a_dataset_cannot_be_named_as_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graft.flows.import_dataset import bring_in

    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / "home"))
    file = tmp_path / "d.csv"
    file.write_text("text,label\none two,a\nthree four,b\n")
    with pytest.raises(InputInvalid, match="cannot name a dataset"):
        bring_in(str(file), "../outside")


LOADS = {"from_pretrained", "from_config", "load_dataset", "SentenceTransformer", "pipeline", "hub_load"}
PICKLING = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}


def sources() -> Iterator[tuple[str, ast.AST]]:
    for room in ROOMS:
        place = ROOT / room
        for file in [place] if place.is_file() else sorted(place.rglob("*.py")):
            yield file.relative_to(ROOT).as_posix(), ast.parse(file.read_text(encoding="utf-8"))


def unsafe(node: ast.AST, file: str) -> str:
    """The reason why this piece of source is forbidden in that file; empty if it is allowed."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [alias.name for alias in node.names]
        roots = {(getattr(node, "module", None) or "").split(".")[0], *(name.split(".")[0] for name in names)}
        errors = isinstance(node, ast.ImportFrom) and all(name.endswith("Error") for name in names)
        return "imports a pickling library" if roots & PICKLING and not errors else ""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.left, ast.Attribute):
        own = node.left.attr in ("runs", "students", "exports") and file != "schemas/home.py"
        return "makes a path of an id: use Home.run, .student or .export" if own else ""
    if not isinstance(node, ast.Call):
        return ""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    given = {word.arg: ast.unparse(word.value) for word in node.keywords}
    owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
    if name in LOADS and file != DOOR:
        return f"loads a model beside {DOOR}"
    if name in LOADS and given.get("trust_remote_code") != "False" and "PeftModel" not in owner:
        return "may run a model's code"
    if owner == "torch" and name == "load" and given.get("weights_only") != "True":
        return "unpickles whatever the file holds"
    if "allow_pickle" in given or (owner == "yaml" and "load" in name and file != "schemas/plain_yaml.py"):
        return "reads pickles, or YAML beside schemas/plain_yaml.py"
    if isinstance(node.func, ast.Name) and name in ("eval", "exec", "compile", "__import__"):
        return "runs text"
    return ""


def test_every_source_loads_models_through_the_one_door() -> None:
    found = [
        f"{file}:{node.lineno}: {why}"  # type: ignore[attr-defined]
        for file, tree in sources()
        for node in ast.walk(tree)
        if (why := unsafe(node, file))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "AutoModel.from_pretrained(place)", "torch.load(file)", "np.load(file, allow_pickle=True)", "import pickle",
        "from joblib import load", "home.students / name", "yaml.safe_load(text)", "datasets.load_dataset(name)",
        "eval(text)",
    ],
)  # fmt: skip
def test_the_rule_finds_what_it_is_for(source: str) -> None:
    assert any(unsafe(node, "students/x.py") for node in ast.walk(ast.parse(source)))
    assert not any(unsafe(node, "students/x.py") for node in ast.walk(ast.parse("from pickle import UnpicklingError")))
