"""The docs site: stages docs/ and the changelog, adds a reference generated from the code, builds and checks it.

    make docs                       # build/site; open index.html, or serve it: python -m http.server -d build/site
    .venv/bin/python .ci/docs.py --out build/site

A link to a missing page or heading, a page outside the navigation, and a script, style sheet or image of another host
fail the build. The pages in docs/ work on GitHub too: `broken` checks their links by GitHub's rules.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(Path(__file__).parent))
LINK = re.compile(r"(?<!\\)(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^\s*(```|~~~)")
CODE = re.compile(r"`[^`]*`")
FOREIGN = re.compile(
    r"<(?:link|script|img|iframe|source)\b[^>]*\b(?:href|src)=[\"']?(?:https?:)?//[^>]*>", re.IGNORECASE
)


def lines_of(text: str) -> Iterator[tuple[str, bool]]:
    """Each line, and whether it belongs to fenced code; the fences do."""
    inside = False
    for line in text.splitlines():
        fence = bool(FENCE.match(line))
        yield line, inside or fence
        inside ^= fence


def prose(text: str) -> Iterator[tuple[int, str]]:
    """The lines outside fenced code, with their numbers; inline code is blanked out."""
    for number, (line, fenced) in enumerate(lines_of(text), 1):
        if not fenced:
            yield number, CODE.sub(lambda found: "`" * len(found[0]), line)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found = set[str]()
    for line, fenced in lines_of(text):
        if not fenced and (heading := re.match(r"#{1,6} (.*)", line)):
            words = LINK.sub(r"\2", heading[1]).strip().lower()
            found.add(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    return found


def broken(pages: list[Path]) -> list[str]:
    """Relative links that lead to no file or heading, as `page:line: target`."""
    found = []
    for page in pages:
        for number, line in prose(page.read_text(encoding="utf-8")):
            for _, _, target in LINK.findall(line):
                if re.match(r"[a-z]+:", target):
                    continue
                file, _, anchor = target.partition("#")
                there = (page.parent / file).resolve() if file else page
                heads = (
                    anchors(there.read_text(encoding="utf-8")) if there.suffix == ".md" and there.is_file() else set()
                )
                if not there.exists() or (anchor and anchor not in heads):
                    found.append(f"{page.relative_to(ROOT)}:{number}: {target}")
    return found


def pages() -> list[Path]:
    """Every page that a user reads in the checkout."""
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def for_the_site(text: str, page: Path) -> str:
    """A page's text for Python-Markdown: a blank line before each list, and no link to a file outside docs/."""
    docs = ROOT / "docs"

    def inside(found: re.Match[str]) -> str:
        target = found[3].partition("#")[0]
        if not target or re.match(r"[a-z]+:", target) or (page.parent / target).resolve().is_relative_to(docs):
            return found[0]
        return found[2]

    lines, before = list[str](), ""
    for line, fenced in lines_of(text):
        starts = re.match(r"(- |\d+\. )", line) and not re.match(r"(- |\d+\. |\s)", before or " ")
        if not fenced and starts:
            lines.append("")
        lines.append(line if fenced else LINK.sub(inside, line))
        before = line
    return "\n".join(lines) + "\n"


def stage(folder: Path) -> None:
    """Copy docs/, the changelog and mkdocs.yml to a folder, and add the generated reference."""
    from reference import write_reference

    shutil.copytree(ROOT / "docs", folder / "docs")
    for page in sorted((ROOT / "docs").rglob("*.md")):
        staged = folder / "docs" / page.relative_to(ROOT / "docs")
        staged.write_text(for_the_site(page.read_text(encoding="utf-8"), page), encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").replace("](docs/", "](")
    (folder / "docs" / "changelog.md").write_text(
        for_the_site(changes, ROOT / "docs" / "changelog.md"), encoding="utf-8"
    )
    shutil.copy(ROOT / "mkdocs.yml", folder / "mkdocs.yml")
    write_reference(folder / "docs" / "reference")


def foreign(site: Path) -> list[str]:
    """Tags of built pages that load something from another host."""
    return [
        f"{page.relative_to(site)}: {tag}"
        for page in sorted(site.rglob("*.html"))
        for tag in FOREIGN.findall(page.read_text(encoding="utf-8"))
        if 'rel="canonical"' not in tag
    ]


def build(out: Path) -> list[str]:
    """Build the site. Returns problems: the builder's output if it failed, else what the pages load from elsewhere."""
    with tempfile.TemporaryDirectory() as place:
        stage(Path(place))
        words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(out.resolve())]
        quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
        made = subprocess.run(words, cwd=place, env=quiet, text=True, capture_output=True)
    if made.returncode:
        return (made.stdout + made.stderr).splitlines()
    return foreign(out)


def main() -> int:
    """Build and check; print the problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site", help="folder of the built pages")
    out: Path = parser.parse_args().out
    problems = broken(pages()) + build(out)
    for one in problems:
        print(one)
    print(f"{len(problems)} problems" if problems else f"{out / 'index.html'}: {len(list(out.rglob('*.html')))} pages")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
