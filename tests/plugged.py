"""Another distribution that adds kinds: its metadata in a folder, its modules among the tests."""

from __future__ import annotations

import os
from pathlib import Path

TESTS = Path(__file__).resolve().parent


def plugged(folder: Path, name: str = "graft-dummies", **kinds: str) -> dict[str, str]:
    """The environment of a process that has it. `kinds`: family to `name = module`, one a line."""
    meta = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    meta.mkdir(parents=True)
    (meta / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text("".join(f"[graft.{family}]\n{some}\n" for family, some in kinds.items()))
    given = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join(part for part in (str(folder), str(TESTS), given) if part)}
