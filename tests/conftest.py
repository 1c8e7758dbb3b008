"""Shared fixtures: a fake model server, and one Prefect server for the whole session."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_llm import Serving
from hypothesis import settings

from graft.data.lake import Lake
from graft.schemas.home import Home

pytest_plugins = ["browsing", "plugged"]

for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "DO_NOT_TRACK"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's threads sleep while they wait: other processes have work


settings.register_profile("graft", deadline=None)  # a busy machine is no reason to fail an example
settings.load_profile("graft")

SLOW = {"prefect_url", "browser", "of_up", "always_down"}
"""Fixtures of tests that start servers or a browser."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files with slow tests first, so that no process idles in the last minutes."""

    def slow(item: pytest.Item) -> bool:
        fixtures = SLOW.intersection(getattr(item, "fixturenames", ()))
        return bool(fixtures) or item.get_closest_marker("models") is not None or "students" in item.path.name

    first = {item.path for item in items if slow(item)}
    items.sort(key=lambda item: item.path not in first)


@pytest.fixture(autouse=True)
def own_settings() -> Iterator[None]:
    """Undo the settings of Prefect and Graft that a test leaves in this process's environment."""
    ours = ("PREFECT_", "GRAFT_")
    before = {name: value for name, value in os.environ.items() if name.startswith(ours)}
    yield
    for name in [name for name in os.environ if name.startswith(ours) and name not in before]:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture
def fake_llm() -> Iterator[Serving]:
    """A fake model server in this process; `url` ends in /v1, `stats()` counts."""
    with Serving() as serving:
        yield serving


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    """A lake to write to, of the home `tmp_path / "home"`, which commands then find."""
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / "home"))
    with Lake.open(Home(tmp_path / "home")) as opened:
        yield opened


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch on one thread: more of them only wait for each other in trainings this small."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def prefect_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API of a Prefect server of this session's own, stopped by its pid at the end."""
    home: Path = tmp_path_factory.mktemp("prefect")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ, "PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "ERROR",
    }  # fmt: skip
    environment.pop("PREFECT_API_URL", None)
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"],
            env=environment, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            _wait_for(f"http://127.0.0.1:{port}/api/health", server)
            yield f"http://127.0.0.1:{port}/api"
        finally:
            server.terminate()
            server.wait(20)


def _wait_for(url: str, server: subprocess.Popen[bytes], seconds: float = 120) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert server.poll() is None, "Prefect's server ended before it was ready"
        try:
            with opener.open(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise AssertionError("Prefect's server did not answer in time")
