"""Prefect's server of `graft up` against other users and web pages; a run without one starts no process."""

from __future__ import annotations

import base64
import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import httpx
import psutil
import pytest
from browsing import FLAGS
from fake_llm import Serving
from playwright.sync_api import Browser, Page, expect, sync_playwright
from test_flows_make_dataset import ROOT, write_recipe
from test_flows_pause import until
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

EVIL = "evil.example"
ODD = "50%20 %s a b?c#d é ü 文 \"q\" 'p' $HOME ; &"
"""Characters that a home's name may have, and that a shell or an address would change."""
OLDER = "LocalNetworkAccessChecks,LocalNetworkAccessChecksWebSockets,BlockInsecurePrivateNetworkRequests"
"""Chromium's own checks of requests to this machine, which other browsers lack: off, so that ours are tested."""
SOCKETS = (
    "/events/in", "/events/out", "/logs/out", "/task_runs/subscriptions/scheduled", "/work_pools/graft/workers/connect",
)  # fmt: skip
OPEN_TO_ALL = {"/health", "/ready"}
"""They tell that a server is there."""


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {**kept, "GRAFT_HOME": str(home), "NO_COLOR": "1", "COLUMNS": "160", **more}


def graft(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "graft", *words], cwd=ROOT, text=True, capture_output=True, timeout=300, check=False,
        env=environment(home),
    )  # fmt: skip


def start(home: Path, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "graft", *words], cwd=ROOT, env=environment(home),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


@dataclass(frozen=True)
class Served:
    """A home, its server's API, and the process that the server and its family descend from."""

    home: Path
    api: str
    first: psutil.Process
    printed: str = ""

    @property
    def secret(self) -> str:
        return (self.home / "prefect" / "secret").read_text(encoding="ascii").strip()

    def client(self, **more: Any) -> httpx.Client:
        user, password = self.secret.split(":")
        return httpx.Client(base_url=self.api, auth=(user, password), trust_env=False, timeout=30, **more)

    def flows(self) -> list[str]:
        with self.client() as client:
            return [flow["name"] for flow in client.post("/flows/filter", json={}).raise_for_status().json()]


@pytest.fixture(scope="module")
def of_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`graft up`, without the deployments that ship: they take long to load."""
    home = tmp_path_factory.mktemp("up") / ODD
    script = "from graft.flows import serve; from graft.schemas.home import Home; "
    script += "serve.up(Home.find(), port=0, deployments=[])"
    try:
        up = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, env=environment(home), text=True, capture_output=True,
            timeout=300, check=False,
        )  # fmt: skip
        assert up.returncode == 0, up.stderr
        state = json.loads((home / "prefect" / "up.json").read_text())
        yield Served(home, state["api_url"], psutil.Process(state["server"]["pid"]), up.stdout)
    finally:
        graft(home, "down")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium for whom the attacker's name is this machine, as after DNS rebinding."""
    flags = [*FLAGS, f"--host-resolver-rules=MAP {EVIL} 127.0.0.1", f"--disable-features={OLDER}"]
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        yield opened
        opened.close()


ATTACK = """
async ([api, sockets]) => {
  const found = {}
  const ask = async (name, path, init) => {
    try { const reply = await fetch(api + path, init); found[name] = reply.type === 'opaque' ? 'opaque' : reply.status }
    catch { found[name] = 'blocked' }
  }
  const flow = JSON.stringify({name: 'evil'}), json = {'Content-Type': 'application/json'}
  await ask('version', '/admin/version', {})
  await ask('read', '/flows/filter', {method: 'POST', headers: json, body: '{}'})
  await ask('write', '/flows/', {method: 'POST', headers: json, body: flow})
  await ask('write without preflight', '/flows/', {method: 'POST', body: new Blob([flow])})
  await ask('blind write', '/flows/', {method: 'POST', mode: 'no-cors', body: new Blob([flow])})
  for (const path of sockets) for (const protocols of [[], ['prefect']]) {
    found['socket ' + path + ' ' + protocols] = await new Promise(settle => {
      const socket = new WebSocket(api.replace('http', 'ws') + path, protocols)
      socket.onopen = () => settle('open')
      socket.onerror = socket.onclose = () => settle('blocked')
    })
  }
  return found
}
"""


def attack(browser: Browser, page_at: str, api: str) -> dict[str, Any]:
    """The API's answers to a script of a page at this address."""
    context = browser.new_context()
    page = context.new_page()
    page.route(
        page_at, lambda route: route.fulfill(body="<!doctype html><title>evil</title>", content_type="text/html")
    )
    page.goto(page_at)
    found = page.evaluate(ATTACK, [api, SOCKETS])
    context.close()
    return dict(found)


class Open(BaseHTTPRequestHandler):
    """A server as Prefect's was: it answers any client and lets every origin read the answer."""

    requests: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.requests.append(f"{self.command} {self.path} {self.headers.get('Upgrade', '')}")
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        for what in ("Origin", "Headers"):
            self.send_header(f"Access-Control-Allow-{what}", "*")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_OPTIONS = do_POST

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@pytest.mark.parametrize("how", ["another origin", "rebound host"])
def test_the_attack_works_where_nothing_is_checked(browser: Browser, how: str) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Open)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        port = server.server_address[1]
        at, host = (
            (f"http://{EVIL}/page", "127.0.0.1") if how == "another origin" else (f"http://{EVIL}:{port}/page", EVIL)
        )
        found = attack(browser, at, f"http://{host}:{port}/api")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert [found[name] for name in ("version", "read", "write", "write without preflight")] == [200] * 4
    assert {f"GET /api{path} websocket" for path in SOCKETS} <= set(Open.requests)


@pytest.mark.parametrize("how", ["another origin", "rebound host"])
def test_a_web_page_neither_reads_nor_writes(of_up: Served, browser: Browser, how: str) -> None:
    port = httpx.URL(of_up.api).port
    if how == "another origin":
        found = attack(browser, f"http://{EVIL}/page", of_up.api)
        refused: set[Any] = {"blocked", "opaque"}
    else:
        found = attack(browser, f"http://{EVIL}:{port}/page", f"http://{EVIL}:{port}/api")
        refused = {"blocked", "opaque", 400}
    got = {name: outcome for name, outcome in found.items() if outcome not in refused}
    assert got == {}
    assert len(found) == 5 + 2 * len(SOCKETS)
    assert "evil" not in of_up.flows()


def test_the_secret_does_not_help_a_foreign_page_or_name(of_up: Served) -> None:
    host = httpx.URL(of_up.api).netloc.decode()
    cases = [
        ({}, 200), ({"Host": f"localhost:{httpx.URL(of_up.api).port}"}, 200), ({"Origin": f"http://{host}"}, 200),
        ({"Host": EVIL}, 400), ({"Host": f"{EVIL}:4200"}, 400), ({"Host": "127.0.0.1.evil.example"}, 400),
        ({"Origin": f"http://{EVIL}"}, 403), ({"Origin": "null"}, 403), ({"Origin": "http://127.0.0.1:1"}, 403),
    ]  # fmt: skip
    with of_up.client() as client:
        for headers, status in cases:
            assert client.post("/flows/filter", json={}, headers=headers).status_code == status, headers
        own = client.options("/flows/", headers={"Origin": f"http://{host}", "Access-Control-Request-Method": "POST"})
        assert own.headers["access-control-allow-origin"] == f"http://{host}"


def test_another_local_user_gets_401(of_up: Served) -> None:
    base = of_up.api.removesuffix("/api")
    with httpx.Client(trust_env=False, timeout=30) as client:
        paths = client.get(f"{base}/openapi.json").json()["paths"]
        routes = [(verb, path) for path, verbs in paths.items() for verb in verbs]
        assert len(routes) > 150
        answers = {
            (verb, path): client.request(verb, of_up.api + path.removeprefix("/api"), json={}).status_code
            for verb, path in routes
        }
        for auth in [("graft", "guess"), ("graft", ""), ("", "")]:
            assert client.post(f"{of_up.api}/flows/filter", json={}, auth=auth).status_code == 401
    let_in = {path.removeprefix("/api") for (_, path), status in answers.items() if status != 401}
    assert let_in == OPEN_TO_ALL


@pytest.mark.parametrize("path", SOCKETS)
def test_a_websocket_without_the_secret_is_closed(of_up: Served, path: str) -> None:
    address = of_up.api.replace("http", "ws", 1) + path

    def answer(token: str | None) -> str:
        with connect(address, subprotocols=["prefect"], proxy=None) as socket:  # type: ignore[list-item]
            socket.send(json.dumps({"type": "auth", "token": token}))
            return str(socket.recv(30))

    for token in (None, "", "graft:guess"):
        with pytest.raises(ConnectionClosed):
            answer(token)
    assert json.loads(answer(of_up.secret)) == {"type": "auth_success"}


def test_the_secret_lies_where_its_owner_alone_can_read_it(of_up: Served) -> None:
    folder = of_up.home / "prefect"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "secret").stat().st_mode) == 0o600
    family = [of_up.first, *of_up.first.children(recursive=True)]
    shown = [" ".join(process.cmdline()) for process in family]
    assert any("graft.flows.server" in line for line in shown)
    logs = [file.read_text(errors="replace") for file in (folder / "logs").iterdir()]
    notes = [file.read_text() for file in of_up.home.glob("**/*.json")]
    password = of_up.secret.split(":")[1]
    assert not [text for text in (*shown, *logs, *notes, of_up.printed) if password in text]


def test_people_reach_the_page_with_the_secret(of_up: Served, browser: Browser) -> None:
    assert f"{of_up.home}/prefect/secret" in of_up.printed
    context = browser.new_context()
    page: Page = context.new_page()
    page.goto(of_up.api.removesuffix("/api") + "/flows")
    page.get_by_role("textbox").fill(of_up.secret)
    page.keyboard.press("Enter")
    expect(page.get_by_text("Flows").last).to_be_visible(timeout=30_000)
    page.goto(of_up.api.removesuffix("/api") + "/work-pools")
    expect(page.get_by_text("graft", exact=True).first).to_be_visible(timeout=30_000)
    context.close()


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


def results(home: Path) -> list[Path]:
    """Whatever a run keeps of its shards."""
    kept = [*home.glob("prefect/storage/**/*"), *home.glob("runs/*/shards/*")]
    return [file for file in kept if file.is_file() and file.suffix != ".tmp"]


def test_a_home_of_somebody_else_runs_no_code(of_up: Served, tmp_path: Path) -> None:
    home, marker = of_up.home, tmp_path / "boom"
    with Serving(median_ms=20) as llm:
        recipe = write_recipe(tmp_path, llm.url, rows=60)
        first = start(home, "run", str(recipe))
        until(lambda: first.poll() is not None or len(results(home)) >= 1, 150)
        assert first.poll() is None, "the run ended before it could be killed"
        first.kill()
        first.wait(20)
        assert not [file for file in results(home) if b"pickle" in file.read_bytes()]

        serializer = {"type": "pickle", "picklelib": "cloudpickle", "picklelib_version": None}
        blob = base64.encodebytes(pickle.dumps(Bomb(marker))).decode()
        for file in results(home):
            record = {"metadata": {"serializer": serializer, "storage_key": str(file)}, "result": blob}
            file.write_text(json.dumps(record))
        handler = {"()": "os.system", "command": f"touch '{marker}'"}
        (home / "prefect" / "logging.yml").write_text(json.dumps({"version": 1, "handlers": {"evil": handler}}))
        (home / "prefect" / "profiles.toml").write_text(
            "active = 'evil'\n[profiles.evil]\nPREFECT_API_URL = 'http://x'"
        )
        again = graft(home, "run", str(recipe), "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["version"]["labels"] == {"alpha": 60, "beta": 60}
    assert not marker.exists()
    assert not [file for file in results(home) if b"pickle" in file.read_bytes()], "reports are written anew"
    assert "make_dataset" in of_up.flows(), "the run reported to the server of `graft up`"


def test_a_run_without_a_server_starts_no_process_and_waits_for_people(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Serving() as llm:
        recipe = write_recipe(tmp_path, llm.url, rows=3)
        recipe.write_text(recipe.read_text(encoding="utf-8") + "review: {rows: 2}\n", encoding="utf-8")
        run = start(home, "run", str(recipe))
        try:
            note = until(lambda: run.poll() is not None or next(home.glob("runs/*/waiting.json"), None), 150)
            assert isinstance(note, Path), "the run ended before it waited"
            assert not psutil.Process(run.pid).children(recursive=True)
            live = json.loads((note.parent / "live.json").read_text())
            assert live["flow_run_id"] is None and live["api_url"] is None
            resumed = graft(home, "resume", note.parent.name, "--by", "Ada")
            assert resumed.returncode == 0, resumed.stderr
            assert run.wait(60) == 0
        finally:
            run.kill()
            run.wait(20)
    assert not note.exists() and not (note.parent / "handed_in.json").exists()
    assert json.loads((note.parent / "reviewed.json").read_text())["by"] == "Ada"
