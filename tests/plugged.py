"""Another distribution that adds kinds: its metadata in a folder, its modules among the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from graft.schemas.kinds import FAMILIES

TESTS = Path(__file__).resolve().parent


def plug(patch: pytest.MonkeyPatch, folder: Path, name: str = "graft-dummies", **kinds: str) -> None:
    """Install it for this process and those that it starts, until the test ends.

    `kinds`: family to a line `name = module` of its entry points.
    """
    meta = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    meta.mkdir(parents=True)
    (meta / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text("".join(f"[graft.{family}]\n{some}\n" for family, some in kinds.items()))
    patch.syspath_prepend(folder)
    given = os.environ.get("PYTHONPATH", "")
    patch.setenv("PYTHONPATH", os.pathsep.join(part for part in (str(folder), str(TESTS), given) if part))
    for family in FAMILIES:
        patch.setattr(family, "_plugins", None)
        patch.setattr(family, "_loaded", dict(family._loaded))
