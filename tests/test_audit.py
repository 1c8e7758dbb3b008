"""`make audit`: every package pinned with a hash, every file as published, licences decided on, a valid SBOM."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CI = ROOT / ".ci"
sys.path.insert(0, str(CI))

import audit  # noqa: E402
from sbom import write_sbom  # noqa: E402


def package(folder: Path, name: str, version: str = "1.0", metadata: str = "") -> Distribution:
    """An installed package of one module, with its RECORD."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{metadata}\n")
    (folder / f"{name}.py").write_text("harmless = True\n")
    digest = hashlib.sha256((folder / f"{name}.py").read_bytes()).digest()
    output = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    (info / "RECORD").write_text(f"{name}.py,sha256={output},16\n{info.name}/RECORD,,\n")
    return PathDistribution(info)


def test_every_installed_package_is_pinned_at_its_version_and_has_a_hash() -> None:
    there = audit.installed()
    assert {"prefect", "torch", "duckdb"} <= {one.metadata["Name"] for one in there}
    assert audit.check_pins(there, audit.pins(), audit.pins(audit.HASHES)).problems == []
    assert audit.hashes().keys() == audit.pins().keys()


def test_a_package_that_is_not_pinned_or_not_at_its_pin_is_a_problem(tmp_path: Path) -> None:
    there = [package(tmp_path, "loose"), package(tmp_path, "moved", "2.0"), package(tmp_path, "local", "3.0+cpu")]
    found = audit.check_pins(there, {"moved": "1.0", "local": "3.0"}, {"moved": "1.0", "local": "2.9", "old": "1"})
    assert found.problems == [
        "local==3.0 has no hash", "loose 1.0 is installed and not pinned", "moved 2.0 is installed, pinned is 1.0",
        "old has a hash and no pin",
    ]  # fmt: skip
    assert "constraints.txt" in found.fix


def test_a_published_file_that_changed_is_a_problem() -> None:
    hashed = audit.hashes()
    assert audit.check_published(hashed, hashed).problems == []
    found = audit.check_published(hashed, {**hashed, "prefect": "0" * 64})
    assert found.problems == [f"prefect: the index gives sha256 {'0' * 64}, committed is {hashed['prefect']}"]


def test_an_installed_file_that_was_changed_or_deleted_is_a_problem(tmp_path: Path) -> None:
    good, bad, gone = (package(tmp_path, name) for name in ("good", "bad", "gone"))
    assert audit.check_files([good, bad, gone]).problems == []
    (tmp_path / "bad.py").write_text("harmless = None\n")
    (tmp_path / "gone.py").unlink()
    assert audit.check_files([good, bad, gone]).problems == [
        "bad: bad.py was changed after it was installed", "gone: gone.py is missing",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("metadata", "licence", "asks"),
    [
        ("License-Expression: MIT", "MIT", False),
        ("License-Expression: MIT OR GPL-2.0-or-later", "MIT OR GPL-2.0-or-later", False),
        ("License-Expression: MIT AND GPL-2.0-or-later", "MIT AND GPL-2.0-or-later", True),
        ("License-Expression: AGPL-3.0-only", "AGPL-3.0-only", True),
        ("Classifier: License :: OSI Approved :: BSD License", "BSD License", False),
        ("License: LGPL", "LGPL", True),
        ("License: UNKNOWN", "unknown", True),
        ("", "unknown", True),
    ],
)
def test_copyleft_and_unknown_licences_ask_for_a_reason(
    tmp_path: Path, metadata: str, licence: str, asks: bool
) -> None:
    found = audit.licence_of(package(tmp_path, "one", metadata=metadata), {})
    assert (found, audit.needs_reason(found)) == (licence, asks)
    assert bool(audit.check_licences({"one": found}, {}).problems) == asks
    assert audit.check_licences({"one": found}, {"one": "because"}).problems == []


def test_a_host_of_the_index_in_a_committed_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("from index.example.org\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "notes.txt"], cwd=tmp_path, check=True)
    found = audit.check_hosts({"index.example.org"}, [], tmp_path)
    assert found.problems == ["notes.txt names a host of the package index"] and not found.skipped
    assert audit.check_hosts({"index.example.net"}, [tmp_path / "notes.txt"], tmp_path).problems == []
    assert audit.index_hosts()


def test_the_sbom_is_valid_and_holds_every_package_model_and_data_file_with_its_hash(tmp_path: Path) -> None:
    link = "Project-URL: Homepage, https://index.example.org/x\nRequires-Dist: second"
    there = [package(tmp_path, "first", metadata=link), package(tmp_path, "second")]
    models = [audit.Bundled("a-model", "1" * 64, "Gemma Terms of Use")]
    data, file = audit.data_files(), tmp_path / "sbom.json"
    licences = {"first": "MIT", "second": "not SPDX at all"}
    result = write_sbom(file, there, {"first": "2" * 64}, licences, models, data, {"index.example.org"})
    assert result.problems == []
    report = json.loads(file.read_text(encoding="utf-8"))
    assert (report["bomFormat"], report["specVersion"]) == ("CycloneDX", "1.6")
    by_name = {one["name"]: one for one in report["components"]}
    assert by_name.keys() == {"first", "second", "a-model", *(one.name for one in data)}
    assert by_name["first"]["hashes"] == [{"alg": "SHA-256", "content": "2" * 64}]
    assert by_name["a-model"]["type"] == "machine-learning-model" and by_name["a-model"]["hashes"]
    assert by_name["recipes/data/demo_seeds.jsonl"]["type"] == "data"
    assert "index.example.org" not in file.read_text(encoding="utf-8")
    needs = {one["ref"]: one.get("dependsOn", []) for one in report["dependencies"]}
    assert needs["library:first"] == ["library:second"]


def test_every_test_that_the_threat_model_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "security.md").read_text(encoding="utf-8")))
    assert len(named) > 15 and not [name for name in sorted(named) if not (ROOT / "tests" / f"{name}.py").is_file()]
