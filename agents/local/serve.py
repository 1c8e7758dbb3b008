"""Server process of one embedded model: `python -m graft.agents.local.serve FOLDER`, started by agents.local.servers.

FOLDER holds `state.json` (the model to serve, written by the starting process) and `leases/`, one file per holder. The
process serves OpenAI's protocol on 127.0.0.1, writes its port to the state, and exits once no holder is alive. A killed
run therefore neither stops a server that others use nor leaves an unused server behind.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock

from graft.agents.local.files import read_json, write_json

SLOTS = 8
CACHE_MIB = 256
"""Memory for evicted prompts: where one server writes and judges, a freed slot gets its prefix back from there."""
POLL_S = 0.5


def process_stamp(pid: int) -> str | None:
    """Return a live process's start time in the system's unit, to detect a reused pid; None if the process is dead.

    Without /proc (macOS) the stamp is empty and only the pid counts.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else ""
    return None if fields[0] in ("Z", "X") else fields[19]


def live_leases(folder: Path) -> list[Path]:
    """Return the leases of live holders and remove the others."""
    alive = []
    for lease in sorted((folder / "leases").glob("*.json")):
        try:
            holder: dict[str, Any] = json.loads(lease.read_bytes())
        except FileNotFoundError:
            continue
        if process_stamp(int(holder["pid"])) == holder["stamp"]:
            alive.append(lease)
        else:
            lease.unlink(missing_ok=True)
    return alive


def folder_lock(folder: Path) -> FileLock:
    """Lock for changes to a server's state and leases."""
    return FileLock(str(folder) + ".lock")


def main(folder: Path) -> int:
    """Serve until no holder is alive or SIGTERM arrives; the exit code is 0 in both cases."""
    state: dict[str, Any] = read_json(folder / "state.json")
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    server = _start(state)
    port = int(str(server.listening_address).rpartition(":")[2])
    with folder_lock(folder):  # read again: by now the state holds this process's pid
        write_json(folder / "state.json", {**read_json(folder / "state.json"), "port": port})
    while not stop.wait(POLL_S):
        if live_leases(folder):
            continue
        with folder_lock(folder):  # a holder that takes a lease now is either seen here or finds no state
            if not live_leases(folder):
                (folder / "state.json").unlink(missing_ok=True)
                stop.set()
    sys.stdout.flush()
    os._exit(0)  # llama.cpp's threads need no shutdown: the process holds only memory


def _start(state: dict[str, Any]) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = state["path"]
    params.model_alias = {state["name"]}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * state["context"]
    params.cpuparams.n_threads = state["threads"]
    params.cpuparams_batch.n_threads = state["threads"]
    params.swa_full = True  # otherwise a sliding-window model (Gemma) cannot reuse a prefix longer than its window
    params.cache_ram_mib = CACHE_MIB  # prefixes of prompts that another role took a slot from
    params.endpoint_slots = False
    params.warmup = False
    params.ui = False
    params.verbosity = 1
    return xllamacpp.Server(params)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
