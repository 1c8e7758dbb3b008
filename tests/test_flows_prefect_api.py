"""Clients of Prefect's server: only its own server gets the secret, and a briefly busy server is retried."""

from __future__ import annotations

import base64
import json
import os
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import psutil
import pytest

from graft.flows import schedules
from graft.flows.prefect_api import access_to, client_at, client_of, connected
from graft.flows.secret import secret, secret_file
from graft.flows.settings import apply_prefect_environment
from graft.flows.state import Access
from graft.schemas.errors import GraftError
from graft.schemas.home import Home


class Answering(BaseHTTPRequestHandler):
    """Healthy; has no flows; answers 503 to the first `busy` requests. Records the Authorization headers."""

    busy = 0
    authorised: list[str | None]

    def do_GET(self) -> None:
        self._answer(*((200, "true") if self.path == "/api/health" else (404, "{}")))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = type(self)
        kind.authorised.append(self.headers.get("Authorization"))
        kind.busy -= 1
        self._answer(503 if kind.busy >= 0 else 200, "[]")

    def _answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def answering() -> Iterator[type[Answering]]:
    kind = type("OfTest", (Answering,), {"authorised": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    kind.url = f"http://127.0.0.1:{server.server_address[1]}/api"  # type: ignore[attr-defined]
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield kind
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    before = dict(os.environ)
    for name in before:
        if name.startswith("PREFECT_"):
            del os.environ[name]
    yield Home(tmp_path / "home")
    os.environ.clear()
    os.environ.update(before)


def note(home: Home, url: str, process: psutil.Process | None, born: float = 0) -> None:
    noted = {"server": {"pid": process.pid, "created": process.create_time() + born}} if process else {}
    home.prefect.mkdir(parents=True, exist_ok=True)
    (home.prefect / "up.json").write_text(json.dumps({"api_url": url, **noted}))


@pytest.mark.parametrize("times", [1, 3])
def test_a_briefly_busy_server_is_retried(answering: type, times: int) -> None:
    answering.busy = times
    with client_at(answering.url) as client:
        assert client.read_flows() == []
    assert len(answering.authorised) == times + 1


def test_a_server_that_stays_busy_is_reported_in_time(answering: type) -> None:
    answering.busy = 1_000
    began = time.monotonic()
    with pytest.raises(GraftError, match="refused"), client_at(answering.url) as client:
        client.read_flows()
    assert time.monotonic() - began < 10
    assert 2 < len(answering.authorised) < 10


def test_the_noted_server_alone_gets_the_secret(answering: type, home: Home) -> None:
    note(home, answering.url, psutil.Process())
    with client_of(home) as client:
        client.read_flows()
    token = base64.b64encode(secret(home).encode()).decode()
    assert answering.authorised == [f"Basic {token}"]
    assert os.environ["PREFECT_API_URL"] == answering.url and os.environ["PREFECT_API_AUTH_STRING"] == secret(home)


def test_a_program_that_took_the_port_of_a_server_that_ended_gets_nothing(answering: type, home: Home) -> None:
    note(home, answering.url, psutil.Process(), born=-5)
    with pytest.raises(GraftError, match="not up"):
        schedules.start(home, "make_dataset/nightly", {})
    apply_prefect_environment(home)
    assert answering.authorised == [] and "PREFECT_API_URL" not in os.environ
    assert not schedules.overview(home).up


def test_a_server_of_the_users_own_never_gets_the_homes_secret(answering: type, home: Home) -> None:
    note(home, "http://127.0.0.1:9/api", psutil.Process())
    os.environ["PREFECT_API_URL"] = "https://prefect.example/api"
    apply_prefect_environment(home)
    assert os.environ["PREFECT_API_URL"] == "https://prefect.example/api"
    assert "PREFECT_API_AUTH_STRING" not in os.environ
    os.environ["PREFECT_API_AUTH_STRING"] = "me:mine"
    assert access_to(home, "https://prefect.example/api") == Access("https://prefect.example/api", "me:mine")
    assert access_to(home, "https://other.example/api").secret is None
    assert access_to(home, answering.url).secret == secret(home)


def test_keys_for_one_server_are_not_sent_to_another(answering: type) -> None:
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_API_URL, temporary_settings

    other = {PREFECT_API_URL: "https://prefect.example/api", PREFECT_API_KEY: "k", PREFECT_API_AUTH_STRING: "me:mine"}
    with temporary_settings(other):
        with client_at(answering.url) as client:
            client.read_flows()
        with connected("https://prefect.example/api"):
            assert PREFECT_API_AUTH_STRING.value() == "me:mine"
    assert answering.authorised == [None]


def test_a_home_has_one_secret_that_its_owner_alone_can_read(home: Home) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: secret(home), range(16)))
    assert len(found) == 1 and secret(Home(home.root / "other")) not in found
    assert stat.S_IMODE(secret_file(home).stat().st_mode) == 0o600
    assert stat.S_IMODE(home.prefect.stat().st_mode) == 0o700


@pytest.mark.parametrize("spoilt", ["open to others", "empty", "a link"])
def test_a_secret_that_others_may_know_is_replaced(home: Home, spoilt: str, tmp_path: Path) -> None:
    before, file = secret(home), secret_file(home)
    if spoilt == "open to others":
        file.chmod(0o644)
    elif spoilt == "empty":
        file.write_text("")
    else:
        file.replace(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    after = secret(home)
    assert after != before and secret(home) == after
    assert stat.S_IMODE(file.lstat().st_mode) == 0o600 and not file.is_symlink()


def test_a_secret_that_cannot_be_kept_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "prefect").write_text("a file")
    with pytest.raises(GraftError, match="secret cannot be stored") as caught:
        secret(Home(tmp_path))
    assert str(tmp_path / "prefect" / "secret") in caught.value.where
