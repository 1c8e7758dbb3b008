"""The functions of `graft` in a real Jupyter kernel: one progress bar for each run, one message for each error."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fake_llm import Serving
from jupyter_client.manager import KernelManager
from jupyter_core.utils import ensure_event_loop
from test_flows_make_dataset import environment, write_recipe
from test_flows_pause import until
from test_flows_stopping import state


class Notebook:
    """A kernel; `run` executes a cell and returns its messages, by type in order.

    The client works in a thread of its own, with an event loop of its own.
    """

    def __init__(self, variables: dict[str, str], folder: Path) -> None:
        self.manager, self._thread = KernelManager(kernel_name="python3"), ThreadPoolExecutor(1)
        self._thread.submit(self._start, variables, str(folder)).result()

    def _start(self, variables: dict[str, str], folder: str) -> None:
        self.manager.start_kernel(env=variables, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._client = self.manager.blocking_client()
        self._client.start_channels()
        self._client.wait_for_ready(60)

    def home(self, folder: Path) -> Path:
        """Set the kernel's home."""
        assert self.run(f"import os; os.environ['GRAFT_HOME'] = {str(folder / 'home')!r}") == []
        return folder / "home"

    def run(self, code: str) -> list[tuple[str, dict[str, Any]]]:
        found: list[tuple[str, dict[str, Any]]] = []

        def keep(message: dict[str, Any]) -> None:
            found.append((message["msg_type"], message["content"]))

        self._thread.submit(self._client.execute_interactive, code, output_hook=keep, timeout=120).result()
        return [(kind, content) for kind, content in found if kind not in {"status", "execute_input"}]

    def interrupt(self) -> None:
        os.kill(self.manager.provisioner.pid, signal.SIGINT)

    def close(self) -> None:
        def end() -> None:
            self._client.stop_channels()
            self.manager.shutdown_kernel(now=True)
            ensure_event_loop().close()

        self._thread.submit(end).result()
        self._thread.shutdown()


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    folder = tmp_path_factory.mktemp("notebook")
    paths = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "IPYTHONDIR": str(folder / "ipython")}
    opened = Notebook(environment(folder / "home") | variables, folder)
    try:
        assert opened.run("import graft") == []
        yield opened
    finally:
        opened.close()


def bars(messages: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """The bar's texts, checked to be one display that is updated."""
    assert [kind for kind, _ in messages] == ["display_data", *["update_display_data"] * (len(messages) - 1)]
    assert len({content["transient"]["display_id"] for _, content in messages}) == 1
    assert all(content["data"]["text/html"].startswith("<progress value=") for _, content in messages)
    return [content["data"]["text/plain"] for _, content in messages]


def test_a_run_shows_one_bar_that_counts_accepted_rows_and_nothing_else(notebook: Notebook, tmp_path: Path) -> None:
    with Serving(median_ms=100) as slow:
        recipe, _ = write_recipe(tmp_path, slow.url), notebook.home(tmp_path)
        shown = bars(notebook.run(f"run, version = graft.run({str(recipe)!r})"))
        assert any("ETA" in text and "0/40" not in text for text in shown), shown
        assert "ended · 40/40 accepted" in shown[-1]
        assert notebook.run(f"run, version = graft.run({str(recipe)!r})") == [], "nothing changed, nothing to show"
        more = bars(notebook.run(f"run, version = graft.run({str(recipe)!r}, rows_per_label=21)"))
        assert all("/42 accepted" in text for text in more), "no trace of the first run"


def test_a_mistake_in_a_recipe_is_one_message_without_a_traceback(notebook: Notebook, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "http://127.0.0.1:9/v1")
    recipe.write_text(recipe.read_text().replace("adjudicator:", "adjudicater:"))
    [(kind, error)] = notebook.run(f"graft.run({str(recipe)!r})")
    assert kind == "error"
    message = "\n".join(error["traceback"])
    assert message.startswith("error: ") and message.count("adjudicater") <= 2 and "Traceback" not in message
    assert "shop.yaml" in message and "fix:" in message


def test_an_interrupted_cell_keeps_its_rows_and_the_same_call_continues(notebook: Notebook, tmp_path: Path) -> None:
    with Serving(median_ms=100) as slow:
        call = f"run, version = graft.run({str(write_recipe(tmp_path, slow.url, rows=40))!r})"
        home = notebook.home(tmp_path)

        def interrupt() -> None:
            until(lambda: state(home).get("settled", 0) >= 20)
            notebook.interrupt()

        pressing = threading.Thread(target=interrupt)
        pressing.start()
        messages = notebook.run(call)
        pressing.join()
        assert [content["ename"] for kind, content in messages if kind == "error"] == ["KeyboardInterrupt"]
        assert "ended · 80/80 accepted" in bars(notebook.run(call))[-1]
        assert slow.stats()["duplicates"] == 0, "calls in flight were finished and kept"
