"""One life of a run under the drill, in a process forked from one that has everything imported.

It is the real flow on the real lake and journal. What it holds for done is noted in a file as it happens, by one write
each, so that a kill loses nothing of it: slots opened, calls sent, replies given out, rows whose commit returned.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import resource
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from graft.agents.gateway import Gateway  # noqa: E402
from graft.agents.gateway.openai_transport import OpenAITransport  # noqa: E402
from graft.agents.local import encoder  # noqa: E402
from graft.data.lake import Lake  # noqa: E402
from graft.flows import make_dataset  # noqa: E402
from graft.flows.run_context import RunContext  # noqa: E402
from graft.schemas.errors import GraftError  # noqa: E402

Note = Callable[[str, str], None]
NEW_MOUNTS, NEW_USERS, PRIVATE = 0x00020000, 0x10000000, 0x4000 | 0x40000
"""Linux's CLONE_NEWNS and CLONE_NEWUSER, and MS_REC with MS_PRIVATE: what is mounted is seen by nobody else."""


def live(recipe: str, home: str, notes: str, space: int) -> None:
    """Run the recipe to its end, or to the kill. The end is noted as `end` with a JSON object: how it ended.

    `space` (bytes; 0: all there is) is what the disk of its home has to give (see `small_disk`).
    """
    quiet = os.open(f"{notes}.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    file = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(kind: str, what: str) -> None:
        os.write(file, f"{kind} {what}\n".encode())

    _tap(note)
    vars(encoder)["find_embed"] = lambda: (None, "")  # no encoder: it is not what is drilled
    note("life", str(os.getpid()))
    with small_disk(Path(home), space) if space else nullcontext(home) as place:
        os.environ["GRAFT_HOME"] = str(place)
        note("end", json.dumps(_run(recipe)))


def _run(recipe: str) -> dict[str, Any]:
    try:
        result = asyncio.run(make_dataset.make_dataset(recipe))
    except GraftError as error:
        return {"error": type(error).__name__, "what": error.what[:300], "fix": error.fix}
    except BaseException as error:  # the drill reports whatever escapes: nothing else may
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(str(ROOT))]
        at = f"{Path(ours[-1].filename).name}:{ours[-1].lineno} " if ours else ""
        return {"escaped": type(error).__name__, "what": f"{at}{error}"[:300]}
    return {"stopped_by": result["run"]["stopped_by"], "hash": (result["version"] or {}).get("content_hash")}


@contextmanager
def small_disk(home: Path, space: int) -> Iterator[Path]:
    """A disk of so many bytes that only this process sees, with what is in `home`; at the end it is copied back there.

    Where the system allows no disk of one's own, a limit on the size of each file stands in for it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    disk = home.parent / f"{home.name}-disk"
    disk.mkdir()
    own = not libc.unshare(NEW_MOUNTS) or not libc.unshare(NEW_MOUNTS | NEW_USERS)
    private = own and not libc.mount(b"none", b"/", None, PRIVATE, None)
    if not private or libc.mount(b"tmpfs", str(disk).encode(), b"tmpfs", 0, f"size={space}".encode()):
        resource.setrlimit(resource.RLIMIT_FSIZE, (space, space))
        yield home
        return
    shutil.copytree(home, disk, dirs_exist_ok=True)
    try:
        yield disk
    finally:
        shutil.copytree(disk, home, dirs_exist_ok=True)


def _tap(note: Note) -> None:
    """Note what happens at the four places, around the real thing."""
    opened, called, sent, committed = RunContext.run_slot, Gateway.call, OpenAITransport.send, Lake.commit

    async def run_slot(self: Any, slot: Any, admission: Any) -> Any:
        note("open", slot.id)
        return await opened(self, slot, admission)

    async def call(self: Any, request: Any) -> Any:
        reply = await called(self, request)
        note("reply", request.key())
        return reply

    async def send(self: Any, request: Any) -> Any:
        note("sent", request.key())
        return await sent(self, request)

    def commit(self: Any, run_id: str, batch_id: str, candidates: Any, calls: Any) -> bool:
        done = committed(self, run_id, batch_id, candidates, calls)
        note("rows", ",".join(candidate.id for candidate in candidates))
        return done

    RunContext.run_slot, Gateway.call = run_slot, call  # type: ignore[method-assign]
    OpenAITransport.send, Lake.commit = send, commit  # type: ignore[method-assign]
