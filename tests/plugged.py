"""Another distribution that adds kinds: `tests/plugin`, which docs/extend.md shows, or any modules under any name."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from graft.schemas.kinds import FAMILIES

PLUGIN = Path(__file__).resolve().parent / "plugin"
ENTRIES: dict[str, dict[str, str]] = tomllib.loads((PLUGIN / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "entry-points"
]
"""Group to the plugin's kinds: name to module."""


def plug(patch: pytest.MonkeyPatch, folder: Path, name: str = "graft-example", **kinds: str) -> None:
    """Install a distribution for this process and those that it starts, until the test ends.

    `kinds` maps a family to lines of `name = module`; the default is the plugin's own kinds.
    """
    groups = {f"graft.{family}": lines for family, lines in kinds.items()} or {
        group: "\n".join(f"{kind} = {module}" for kind, module in some.items()) for group, some in ENTRIES.items()
    }
    meta = folder / f"{name.replace('-', '_')}-0.3.dist-info"
    meta.mkdir(parents=True)
    (meta / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.3\n")
    (meta / "entry_points.txt").write_text("".join(f"[{group}]\n{lines}\n" for group, lines in groups.items()))
    given = os.environ.get("PYTHONPATH", "")
    patch.setenv(
        "PYTHONPATH", os.pathsep.join(part for part in (str(folder), str(PLUGIN), str(PLUGIN.parent), given) if part)
    )
    patch.syspath_prepend(str(PLUGIN))
    patch.syspath_prepend(str(folder))
    for family in FAMILIES:
        patch.setattr(family, "_plugins", None)
        patch.setattr(family, "_loaded", dict(family._loaded))


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The plugin's kinds; the folder in which its metadata lies."""
    plug(monkeypatch, tmp_path / "site")
    return tmp_path / "site"
