"""The version: that of the newest tag `v1.2.3`, with `.postN` for N commits after it. The rest is in pyproject.toml."""

import re
import subprocess
from pathlib import Path

from setuptools import setup

FALLBACK = "0.1.0"
"""Version of a checkout without tags."""
HERE = Path(__file__).resolve().parent


def version() -> str:
    """The tag's version; of an unpacked sdist, that of its metadata."""
    packed = HERE / "PKG-INFO"
    if packed.is_file() and (found := re.search(r"^Version: (\S+)$", packed.read_text(encoding="utf-8"), re.MULTILINE)):
        return found[1]
    if not (HERE / ".git").exists():
        return FALLBACK
    command = ["git", "describe", "--tags", "--long", "--match", "v[0-9]*.[0-9]*.[0-9]*"]
    described = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    tag = re.fullmatch(r"v(\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?)-(\d+)-g[0-9a-f]+", described.stdout.strip())
    if tag is None:
        return FALLBACK
    return tag[1] if tag[2] == "0" else f"{tag[1]}.post{tag[2]}"


setup(version=version())
