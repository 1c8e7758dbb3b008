"""Supply-chain audit: packages as pinned and published, models as pinned, licences, and an SBOM.

    make audit                      # all of it; queries the package index
    make audit ARGS=--offline       # without the index
    make audit ARGS=--write         # renew .ci/hashes.txt from the index, after constraints.txt has changed

Writes build/sbom.cdx.json (CycloneDX 1.6) and build/licences.md. Exits 1 where a check fails. Known vulnerabilities are
not looked up, as that needs an advisory service: give the SBOM to a scanner where there is one.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import Distribution
from pathlib import Path
from urllib.parse import urlsplit

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PINS, HASHES, LICENCES = ROOT / "constraints.txt", ROOT / ".ci/hashes.txt", ROOT / ".ci/licences.toml"
OURS, TOOLS = "graft-factory", {"pip", "wheel"}
"""The package itself, and what installs packages: a virtual environment brings these along."""
PLATFORM = f"Python {sys.version_info.major}.{sys.version_info.minor}, {sys.platform}"
OPEN = re.compile(
    r"MIT|Apache|BSD|ISC|PSF|Python Software Foundation|MPL|Mozilla|Zlib|CC0|Unlicense|Artistic|HPND", re.IGNORECASE
)
SHOWN = 8


@dataclass(frozen=True)
class Bundled:
    """Weights or data that come along: name, SHA-256 and licence."""

    name: str
    sha256: str
    licence: str


@dataclass
class Result:
    """Result of one check. It has passed if there are no problems; `skipped` gives the reason if it was not run."""

    name: str
    problems: list[str]
    fix: str = ""
    detail: str = ""
    skipped: str = ""
    seconds: float = field(default=0.0, compare=False)


def installed() -> list[Distribution]:
    """Every distribution of this environment but the package itself and the installers, by name."""
    found = {canonicalize_name(one.metadata["Name"]): one for one in importlib.metadata.distributions()}
    return [one for name, one in sorted(found.items()) if name not in {OURS, *TOOLS}]


def pins(file: Path = PINS) -> dict[str, str]:
    """Name to version of a file of `name==version` lines; whatever follows the version is left out."""
    lines = [line.split("#")[0].split() for line in file.read_text(encoding="utf-8").splitlines()]
    pairs = [line[0].split("==") for line in lines if line]
    return {canonicalize_name(name): version for name, version in pairs}


def hashes(file: Path = HASHES) -> dict[str, str]:
    """Name to SHA-256 of the published file, from lines of `name==version --hash=sha256:…`."""
    pattern = re.compile(r"^(\S+)==\S+ --hash=sha256:([0-9a-f]{64})$", re.MULTILINE)
    return {canonicalize_name(name): value for name, value in pattern.findall(file.read_text(encoding="utf-8"))}


def check_pins(there: Sequence[Distribution], pinned: Mapping[str, str], hashed: Mapping[str, str]) -> Result:
    """Each installed package is pinned at its version, and each pin has a hash of the same version."""
    problems = []
    for one in there:
        name = canonicalize_name(one.metadata["Name"])
        if name not in pinned:
            problems.append(f"{name} {one.version} is installed and not pinned")
        elif one.version not in SpecifierSet(f"=={pinned[name]}"):
            problems.append(f"{name} {one.version} is installed, pinned is {pinned[name]}")
    problems += [f"{name}=={version} has no hash" for name, version in pinned.items() if hashed.get(name) != version]
    problems += [f"{name} has a hash and no pin" for name in hashed.keys() - pinned.keys()]
    fix = "pin it in constraints.txt, make install, then: make audit ARGS=--write"
    return Result("pins", sorted(problems), fix, f"{len(there)} installed, {len(pinned)} pinned")


def published(pinned: Mapping[str, str]) -> dict[str, str]:
    """Name to SHA-256 of the file that the index gives for each pin; nothing is installed. RuntimeError if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, report = Path(folder) / "pins.txt", Path(folder) / "report.json"
        wanted.write_text("".join(f"{name}=={version}\n" for name, version in pinned.items()), encoding="utf-8")
        command = [
            sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet",
            "--disable-pip-version-check", "--no-input", "--report", str(report), "-r", str(wanted),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise RuntimeError("; ".join(without_hosts(line) for line in errors[:SHOWN]) or "pip gave no reason")
        items = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {
        canonicalize_name(item["metadata"]["name"]): item["download_info"]["archive_info"]["hashes"]["sha256"]
        for item in items
    }


def check_published(hashed: Mapping[str, str], found: Mapping[str, str]) -> Result:
    """The index gives the files whose hashes are committed; not looked at on another platform than theirs."""
    if PLATFORM not in HASHES.read_text(encoding="utf-8"):
        return Result("published files", [], skipped="the committed hashes are of another platform")
    names = sorted(hashed.keys() | found.keys())
    problems = [
        f"{name}: the index gives sha256 {found.get(name, 'nothing')}, committed is {hashed.get(name, 'nothing')}"
        for name in names
        if hashed.get(name) != found.get(name)
    ]
    fix = "a published file never changes: find out why this one did before make audit ARGS=--write"
    return Result("published files", problems, fix, f"{len(found)} files of the index as committed")


def check_files(there: Iterable[Distribution]) -> Result:
    """Each installed file is as its package's RECORD has it."""
    problems, count = [], 0
    for one in there:
        if one.files is None:
            problems.append(f"{one.metadata['Name']} has no RECORD")
        for file in one.files or ():
            if file.hash is None:
                continue
            count += 1
            try:
                with Path(file.locate()).open("rb") as stream:
                    digest = hashlib.file_digest(stream, file.hash.mode).digest()
            except OSError:
                problems.append(f"{one.metadata['Name']}: {file} is missing")
                continue
            if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != file.hash.value:
                problems.append(f"{one.metadata['Name']}: {file} was changed after it was installed")
    fix = "pip install --force-reinstall --no-deps -c constraints.txt NAME"
    return Result("installed files", problems, fix, f"{count:,} files as their RECORD has them")


def check_models(found: list[Bundled]) -> Result:
    """Each bundled model's weights, and each installed teacher's, are the pinned ones; they are added to `found`."""
    from graft.agents.local import encoder, files
    from graft.schemas.errors import GraftError, MissingExtra
    from graft.schemas.home import Home
    from graft.schemas.models import EMBEDDED_POOL, ModelSpec

    problems, bundled = [], {spec.model for spec in EMBEDDED_POOL}
    more = [
        ModelSpec(name=name.replace(".", "-"), provider="embedded", model=name, licence=one.licence)
        for name, one in files.BUILT_IN.items()
        if name not in bundled
    ]
    with tempfile.TemporaryDirectory() as home:  # parts are joined there
        for spec in (*EMBEDDED_POOL, *more):
            try:
                if spec.provider == "encoder":
                    encoder.minilm_folder()
                    digest = encoder.PINNED["model.safetensors"]
                else:
                    digest = files.model_file(spec, Home(Path(home))).sha256
            except GraftError as error:
                if spec.model in bundled or not isinstance(error, MissingExtra):
                    problems.append(str(error))
            else:
                found.append(Bundled(spec.model, digest, spec.licence or "unknown"))
    return Result("model weights", problems, "see each", f"{len(found)} models as pinned")


def data_files() -> list[Bundled]:
    """The recipes' seeds and test texts, with the licence of the recipe that names them."""
    recipes = [file.read_text(encoding="utf-8") for file in sorted((ROOT / "recipes").glob("*.yaml"))]
    found = []
    data = ROOT / "recipes/data"
    for file in sorted(file for file in data.rglob("*") if file.is_file()):
        name = file.relative_to(data).as_posix()
        named = next((text for text in recipes if f"data/{name}" in text or f"data/{file.parent.name}/" in text), "")
        licence = re.search(r"^licence:\s*([^#\n]+)", named, re.MULTILINE)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        found.append(Bundled(f"recipes/data/{name}", digest, licence[1].strip() if licence else "unknown"))
    return found


def licence_of(one: Distribution, known: Mapping[str, str]) -> str:
    """A package's licence: from our table, its SPDX expression, its classifiers, or its free text; else "unknown"."""
    name, data = canonicalize_name(one.metadata["Name"]), one.metadata
    classified = [text.split(" :: ")[-1] for text in data.get_all("Classifier") or () if text.startswith("License ::")]
    free = (data.get("License") or "").strip()
    first = free.splitlines()[0].strip() if free not in ("", "UNKNOWN") else ""  # some give the whole text
    short = first if OPEN.search(first) or "GPL" in first else ""
    return known.get(name) or data.get("License-Expression") or " / ".join(classified) or short or "unknown"


def needs_reason(licence: str) -> bool:
    """Return True if a licence needs a decision: copyleft without an alternative, terms of use, or unknown."""
    choices = [part for part in re.split(r"\bOR\b", licence) if "GPL" not in part and "General Public" not in part]
    return not any(OPEN.search(part) for part in choices)


def check_licences(licences: Mapping[str, str], accepted: Mapping[str, str]) -> Result:
    """Check that each licence that needs a decision has one."""
    problems = [
        f"{name}: {licence}" for name, licence in licences.items() if needs_reason(licence) and name not in accepted
    ]
    problems += [f"{name} is accepted and not there" for name in accepted if name not in licences]
    fix = "enter it with the reason under [accepted] in .ci/licences.toml, or do without it"
    return Result("licences", problems, fix, f"{len(licences)} licences, {len(accepted)} accepted for a reason")


def index_hosts() -> set[str]:
    """Host names of the package index as pip is set up here; they may stand in no file of ours."""
    from pip._internal.models.index import PyPI

    output = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    found = {urlsplit(address).hostname or "" for address in re.findall(r"https?://[^\s'\"]+", output)}
    return {PyPI.netloc, PyPI.file_storage_domain} | found - {""}


def without_hosts(text: str) -> str:
    """A text without addresses."""
    return re.sub(r"\b\w+://\S+", "(an address)", text)


def check_hosts(hosts: Iterable[str], files: Iterable[Path], root: Path = ROOT) -> Result:
    """No committed file, nor one that the audit wrote, names a host of the package index."""
    words = [word for host in sorted(hosts) for word in ("-e", host)]
    done = subprocess.run(
        ["git", "grep", "-IF", "--name-only", *words], cwd=root, capture_output=True, text=True, check=False
    )
    texts = {file.name: file.read_text(encoding="utf-8") for file in files if file.is_file()}
    named = [*done.stdout.splitlines(), *(name for name, text in texts.items() if any(host in text for host in hosts))]
    problems = [f"{name} names a host of the package index" for name in named]
    skipped = "this is no git checkout" if done.returncode > 1 and not problems else ""
    fix = "take it out: whoever installs has an index of their own"
    return Result("no index host", problems, fix, "none named", skipped)


def write_hashes(pinned: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Renews the committed hashes."""
    head = (
        f"# SHA-256 of the published file of every pin in constraints.txt, as pip chooses it on {PLATFORM}\n"
        "# (torch's CPU build; other platforms get other files). Written by: make audit ARGS=--write\n"
    )
    lines = [f"{name}=={version} --hash=sha256:{found[name]}\n" for name, version in sorted(pinned.items())]
    HASHES.write_text(head + "".join(lines), encoding="utf-8")


def write_licences(file: Path, rows: Mapping[str, tuple[str, str]], accepted: Mapping[str, str]) -> None:
    """The table of licences: name to (version, licence)."""
    lines = ["| package, model or data | version | licence | accepted because |", "|---|---|---|---|"]
    lines += [f"| {n} | {v} | {lic} | {accepted.get(n, '')} |" for n, (v, lic) in rows.items()]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def show(results: Sequence[Result], licences: Mapping[str, str]) -> None:
    """Licences with who has them, then a table of the checks, then what failed and how to mend it."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name, licence in licences.items():
        groups[licence].append(name)
    for licence, names in sorted(groups.items(), key=lambda one: (-len(one[1]), one[0])):
        print(f"{len(names):4}  {licence}: {', '.join(names[:SHOWN])}{' …' if len(names) > SHOWN else ''}")
    print(f"\n{'check':16} {'result':8} {'seconds':>8}  found")
    for one in results:
        state = "skipped" if one.skipped else "FAILED" if one.problems else "passed"
        summary = one.skipped or (f"{len(one.problems)} problems" if one.problems else one.detail)
        print(f"{one.name:16} {state:8} {one.seconds:8.1f}  {summary}")
    for one in results:
        for problem in one.problems[:SHOWN]:
            print(f"\n{one.name}: {problem}", end="")
        if one.problems:
            more = len(one.problems) - SHOWN
            print(f"\n{f'  and {more} more' if more > 0 else ''}\n  fix: {one.fix}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes every check and prints what came of it. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--offline", action="store_true", help="do not ask the package index")
    parser.add_argument("--write", action="store_true", help="renew .ci/hashes.txt from the index first")
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="folder of the SBOM and the licences")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    pinned = pins()
    results, found = ([], {}) if chosen.offline else ask_index(pinned, renew=chosen.write)
    licences = check_all(results, pinned, found, chosen.out)
    show(results, licences)
    print(f"\nwrote {chosen.out}/sbom.cdx.json and {chosen.out}/licences.md")
    return int(any(one.problems for one in results))


def ask_index(pinned: Mapping[str, str], *, renew: bool) -> tuple[list[Result], dict[str, str]]:
    """Fetch the pins' hashes from the index and note if it answered; with `renew`, write them to the file of hashes."""
    began, found = time.monotonic(), dict[str, str]()
    result = Result("the index", [], "make audit ARGS=--offline leaves it out", "answered")
    try:
        found = published(pinned)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        result.problems.append(f"no answer for every pin: {without_hosts(str(error))}")
    if renew and found:
        write_hashes(pinned, found)
    result.seconds = time.monotonic() - began
    return [result], found


def check_all(results: list[Result], pinned: Mapping[str, str], found: Mapping[str, str], out: Path) -> dict[str, str]:
    """Adds every check to the results and writes the files. Returns name to licence."""
    from sbom import write_sbom

    def timed(check: Callable[[], Result]) -> None:
        began = time.monotonic()
        result = check()
        result.seconds = time.monotonic() - began
        results.append(result)

    there, hashed = installed(), hashes()
    timed(lambda: check_pins(there, pinned, pins(HASHES)))
    if found:
        timed(lambda: check_published(hashed, found))
    timed(lambda: check_files(there))
    bundled = data_files()
    models: list[Bundled] = []
    timed(lambda: check_models(models))
    table = tomllib.loads(LICENCES.read_text(encoding="utf-8"))
    rows = {canonicalize_name(one.metadata["Name"]): (one.version, licence_of(one, table["known"])) for one in there}
    rows |= {one.name: (one.sha256[:12], one.licence) for one in (*models, *bundled)}
    licences = {name: licence for name, (_, licence) in rows.items()}
    timed(lambda: check_licences(licences, table["accepted"]))
    write_licences(out / "licences.md", rows, table["accepted"])
    hosts = index_hosts()
    timed(lambda: write_sbom(out / "sbom.cdx.json", there, hashed, licences, models, bundled, hosts))
    timed(lambda: check_hosts(hosts, [out / "licences.md", out / "sbom.cdx.json"]))
    return licences


if __name__ == "__main__":
    sys.exit(main())
