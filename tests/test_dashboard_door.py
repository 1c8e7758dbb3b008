"""Admission: the key of a home, and the powers of another site's page in a browser (only to follow a link)."""

from __future__ import annotations

import contextlib
import http.client
import os
import pty
import re
import socket
import stat
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from browsing import fill, serving, visiting
from playwright.sync_api import Browser

from graft.dashboard.door import FILE, Key
from graft.data.edits import edits
from graft.data.lake import Lake
from graft.schemas.home import Home

QUERY = "/review?rule=query&where=length(text)%3E0"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    made = Home(tmp_path_factory.mktemp("shop"))
    fill(made)
    return made


@pytest.fixture(scope="module")
def shop(home: Home) -> Iterator[str]:
    with serving(home.root) as address:
        yield address


@contextmanager
def site(body: str, host: str) -> Iterator[str]:
    """Another site's page, at another port: under `localhost` also another site to a browser."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *facts: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{host}:{server.server_address[1]}/"
        server.shutdown()


def ask(
    address: str, path: str, method: str = "GET", body: str = "", **headers: str
) -> tuple[int, str, dict[str, str]]:
    """A request as it is written here: status, text and headers of the answer."""
    split = urllib.parse.urlsplit(address)
    connection = http.client.HTTPConnection(split.hostname or "", split.port, timeout=60)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body or None, named)
    answer = connection.getresponse()
    output = answer.read().decode("utf-8", "replace")
    connection.close()
    return answer.status, output, {name.lower(): value for name, value in answer.getheaders()}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_another_sites_page_reads_and_starts_nothing(browser: Browser, home: Home, shop: str, host: str) -> None:
    sends = f"""
        <img src="{shop}{QUERY}"><img src="{shop}/"><script src="{shop}/static/graft.js"></script>
        <iframe src="{shop}/"></iframe><object data="{shop}/runs"></object><link rel="stylesheet" href="{shop}/rows">
        <iframe name="hidden"></iframe>
        <form id="f" method="post" target="hidden" action="{shop}/review/decide"><input name="ref" value="shop@2">
        <input name="row" value="c_row00001"><input name="action" value="reject"><input name="token" value="t"></form>
        <script>
          document.getElementById("f").submit();
          window.outcomes = Promise.allSettled([
            fetch("{shop}{QUERY}"), fetch("{shop}{QUERY}", {{mode: "no-cors", credentials: "include"}}),
            fetch("{shop}/review/undo", {{method: "POST", mode: "no-cors", credentials: "include", body: "edit=e"}}),
            fetch("{shop}/", {{credentials: "include"}}),
          ]).then((all) => all.map((one) => one.value ? one.value.type : one.status));
        </script>"""
    with site(sends, host) as elsewhere, visiting(browser) as (page, _):
        seen: dict[str, list[Any]] = {}  # by the browser's own protocol: pages do not see answers that it blocks
        network = page.context.new_cdp_session(page)
        network.on(
            "Network.requestWillBeSent",
            lambda listed: seen.setdefault(listed["requestId"], []).append(listed["request"]["url"]),
        )
        network.on(
            "Network.responseReceivedExtraInfo",
            lambda listed: seen.setdefault(listed["requestId"], []).append(listed["statusCode"]),
        )
        network.send("Network.enable")
        page.goto(elsewhere)
        page.wait_for_load_state("networkidle")
        outcomes = page.evaluate("window.outcomes")
    listed = [one for one in seen.values() if any(str(part).startswith(shop) for part in one)]
    assert outcomes == ["rejected"] * 4
    assert len(listed) >= 9 and all(403 in one and 200 not in one for one in listed), listed
    with Lake.open(home, read_only=True) as lake:
        assert edits(lake, "shop") == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_another_sites_link_opens_a_page_and_searches_nothing(browser: Browser, shop: str, host: str) -> None:
    links = f'<a href="{shop}/runs">plain</a> <a href="{shop}{QUERY}">query</a> <a href="{shop}/rows?words=x">words</a>'
    with site(links, host) as elsewhere, visiting(browser) as (page, _):
        page.goto(elsewhere)
        with page.expect_navigation() as opened:
            page.get_by_text("plain").click()
        # another site's link comes without our cookie: one more click brings it along
        assert opened.value.status == (200 if host == "127.0.0.1" else 401)
        if host == "localhost":
            page.get_by_role("link", name="Open the page").click()
        page.get_by_role("heading", name="Runs").wait_for()
        for link, shown in (("query", "#decide"), ("words", ".counted")):
            page.goto(elsewhere)
            with page.expect_navigation() as opened:
                page.get_by_text(link).click()
            assert opened.value.status == 403 and "No search was run" in page.content()
            page.get_by_role("link", name="Open the page").click()
            page.locator(shown).wait_for()


ELSEWHERE: list[dict[str, str]] = [
    {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Referer": "http://evil.example/x"},
    {"Referer": "http://127.0.0.1:1/"}, {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"},
    {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "cors", "Sec_Fetch_Dest": "empty"},
    {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"},
    {"Sec_Fetch_Site": "none", "Origin": "http://evil.example"},
]  # fmt: skip


@pytest.mark.parametrize("headers", ELSEWHERE)
def test_requests_from_another_origin_are_refused_by_any_header(home: Home, shop: str, headers: dict[str, str]) -> None:
    cookie = "=".join(Key(home.root).cookie)
    for path in ("/", QUERY, "/static/graft.css", "/charts/balance.svg?of=shop@2", "/nothing"):
        for method in ("GET", "HEAD"):
            assert ask(shop, path, method, Cookie=cookie, **headers)[0] == 403, path
    form = "ref=shop@2&row=c_row00001&action=reject&token=t"
    for more in (headers, {}):  # a form has to prove that it is ours
        assert ask(shop, "/review/decide", "POST", form, Cookie=cookie, **more)[0] == 403


def test_a_link_without_fetch_metadata_opens_plain_pages_alone(home: Home, shop: str) -> None:
    cookie = "=".join(Key(home.root).cookie)
    link = {"Referer": "http://evil.example/", "Accept": "text/html,*/*", "Cookie": cookie}
    assert ask(shop, "/rows?ref=shop@2&words=", **link)[0] == 200
    for path in (QUERY, "/rows?words=a", "/rows?ref=shop@2&show=1", "/datasets/shop@2/report", "/?csv=x",
                 "/rows/c_row00001/prov.json", "/datasets/shop@2/changes?against=shop@1"):  # fmt: skip
        assert ask(shop, path, **link)[0] == 403, path


def test_the_key_lets_in_and_nothing_else_does(browser: Browser, home: Home, shop: str) -> None:
    assert stat.S_IMODE((home.root / FILE).stat().st_mode) == 0o600
    for path in ("/", "/static/graft.css", "/review", "/charts/balance.svg?of=shop@2", "/?token=guessed", "/nothing"):
        status, output, _ = ask(shop, path)
        assert status == 401 and "graft dashboard" in output and str(home.root / FILE) in output, path
        assert "shop@2" not in output.replace(path, "") and Key(home.root).cookie[1] not in output
    assert ask(shop, "/", Cookie="graft_key_0=1; " + Key(home.root).cookie[0] + "=wrong")[0] == 401
    with visiting(browser, let_in=False) as (page, wrong):
        page.goto(f"{shop}/runs?dataset=shop")
        page.get_by_label("key").fill("not it")
        page.get_by_role("button", name="open the dashboard").click()
        page.get_by_role("alert").wait_for()
        page.get_by_label("key").fill((home.root / FILE).read_text())
        page.get_by_role("button", name="open the dashboard").click()
        page.get_by_role("heading", name="Runs").wait_for()
        assert page.url == f"{shop}/runs?dataset=shop"
        (cookie,) = page.context.cookies()
        assert cookie["httpOnly"] and cookie["sameSite"] == "Strict" and cookie["expires"] == -1
        assert [text for text in wrong if "401" not in text] == []
    status, _, headers = ask(shop, "/enter", "POST", f"secret={(home.root / FILE).read_text()}&back=//evil.example/",
                             Origin=shop)  # fmt: skip
    assert (status, headers["location"]) == (303, "/evil.example/")


def test_an_address_of_a_million_characters_is_refused(shop: str) -> None:
    split = urllib.parse.urlsplit(shop)
    with socket.create_connection((split.hostname, split.port), timeout=30) as raw:
        with contextlib.suppress(OSError):  # it may hang up in the middle
            raw.sendall(b"GET /rows?words=" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with contextlib.suppress(OSError):
            assert b" 400 " in raw.recv(100)
    assert ask(shop, "/")[0] == 401


@contextmanager
def on_a_terminal(home: Path, *words: str) -> Iterator[str]:
    """`graft dashboard` on a terminal, where it prints its address with a token."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "graft", "dashboard", "--port", "0", *words]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRAFT_DASHBOARD")}
    with subprocess.Popen(
        command, env={**environment, "GRAFT_HOME": str(home)}, stdout=theirs, stderr=theirs
    ) as server:
        os.close(theirs)
        try:
            text = ""
            while "Ctrl-C" not in text:
                text += os.read(ours, 4096).decode()
            yield text
        finally:
            server.terminate()
            server.wait(20)
            os.close(ours)


def test_the_printed_address_lets_one_browser_in_once(browser: Browser, tmp_path: Path) -> None:
    with on_a_terminal(tmp_path, "--no-open") as given:
        found = re.search(r"(http://127\.0\.0\.1:\d+)/\?token=([\w-]+)", given)
        assert found, given
        with visiting(browser, let_in=False) as (page, wrong):
            requests: list[tuple[str, str]] = []
            page.on("request", lambda sent: requests.append((sent.url, sent.headers.get("referer", ""))))
            page.goto(found[0])
            assert page.url == found[1] + "/" and page.get_by_role("heading", name="Home").count() == 1
            assert not any(found[2] in text for sent in requests[1:] for text in sent), "no other request has the token"
            page.goto(found[0])
            assert page.url == found[1] + "/", "who is in already is let in again"
            assert wrong == []
        assert ask(found[1], f"/?token={found[2]}")[0] == 401
        assert (tmp_path / FILE).read_text() not in given


def test_no_log_holds_a_token(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "graft", "dashboard", "--port", "0", "--no-open"]
    with subprocess.Popen(command, env={**os.environ, "GRAFT_HOME": str(tmp_path)}, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True) as server:  # fmt: skip
        assert server.stdout is not None
        try:
            output = server.stdout.readline()
            ask(next(word for word in output.split() if word.startswith("http://")), "/?token=something")
        finally:
            server.terminate()
        output += server.stdout.read()
    assert "?token" not in output and (tmp_path / FILE).read_text() not in output and str(tmp_path / FILE) in output


def test_a_browser_is_opened_by_a_file_and_not_by_an_argument(browser: Browser, tmp_path: Path) -> None:
    """Another user reads a program's arguments, and could be quicker with the token than the browser."""
    opener = tmp_path / "opener"
    opener.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/opened\n')
    opener.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BROWSER", f"{opener} %s")
        with on_a_terminal(tmp_path / "home") as given:
            while not (tmp_path / "opened").exists() or not (address := (tmp_path / "opened").read_text().strip()):
                pass
            assert address.startswith("file://") and "token" not in address
            file = Path(urllib.parse.urlsplit(address).path)
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            base = re.search(r"http://127\.0\.0\.1:\d+", given)
            assert base
            with visiting(browser, let_in=False) as (page, _):
                page.goto(address)
                page.wait_for_url(base[0] + "/")
                page.get_by_role("heading", name="Home").wait_for()
    assert not file.exists()


@pytest.mark.parametrize(("host", "known"), [
    ("127.0.0.1:{port}", True), ("localhost:{port}", True), ("[::1]:{port}", True), ("[::1]", True),
    ("LocalHost", True), ("127.0.0.1:8080", True), ("evil.example", False), ("evil.example:{port}", False),
    ("127.0.0.1.evil.example", False),
    ("[::1].evil.example", False), ("evil.example@127.0.0.1", False), ("[::2]", False), ("", False), ("[::1", False),
    ("localhost:x", False), ("127.0.0.1/", False),
])  # fmt: skip
def test_only_the_machines_own_names_are_answered(home: Home, shop: str, host: str, known: bool) -> None:
    cookie = "=".join(Key(home.root).cookie)
    status = ask(shop, "/runs", Cookie=cookie, Host=host.format(port=urllib.parse.urlsplit(shop).port))[0]
    assert status == (200 if known else 400)


def test_an_ipv6_address_is_printed_as_one_that_opens(browser: Browser, tmp_path: Path) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    with on_a_terminal(tmp_path, "--no-open", "--host", "::1") as given, visiting(browser, let_in=False) as (page, _):
        found = re.search(r"http://\[::1\]:\d+/\?token=[\w-]+", given)
        assert found, given
        page.goto(found[0])
        page.get_by_role("heading", name="Home").wait_for()


def test_a_password_or_a_proxy_takes_the_keys_place(tmp_path: Path) -> None:
    with serving(tmp_path, GRAFT_DASHBOARD_PASSWORD="pass-word") as address:
        assert ask(address, "/")[0] == 401 and ask(address, "/", Authorization="Basic OnBhc3Mtd29yZA==")[0] == 200
        crossed = {"Authorization": "Basic OnBhc3Mtd29yZA==", "Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "cors"}
        assert ask(address, "/", **crossed)[0] == 403
    assert not (tmp_path / FILE).exists()
