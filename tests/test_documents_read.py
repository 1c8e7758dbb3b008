"""Documents are read in any format, cut by sentences, and found again; bad files say what to do."""

from __future__ import annotations

import re
import sys
import zlib
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.data.documents import formats, read, scans
from graft.data.documents.chunk import passages, sentences, words
from graft.data.documents.index import ByMeaning, ByWords
from graft.data.documents.read import Library, read_documents
from graft.schemas.documents import UNSPACED, ChunkSettings, Document, DocumentSettings
from graft.schemas.errors import InputInvalid, MissingExtra

SILK = "Silk is strong. Dr. Ray (see Fig. 3) measured 1.3 GPa in dry fibres, e.g. of Nephila. Wet silk shrinks by half!"


def pdf(*pages: str) -> bytes:
    """A PDF with a line of text on each page; a page without text is blank."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for text in pages:
        lines = " ".join(f"({line}) Tj T*" for line in text.split("\n"))
        stream = zlib.compress(f"BT /F1 12 Tf 14 TL 72 720 Td {lines} ET".encode("latin-1") if text else b"")
        objects.append(b"<< /Length %d /Filter /FlateDecode >> stream\n%s\nendstream" % (len(stream), stream))
        font = "/Resources << /Font << /F1 3 0 R >> >>"
        page = f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {len(objects)} 0 R {font} >>"
        objects.append(page.encode())
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>".encode()
    body, places = b"%PDF-1.4\n", []
    for number, one in enumerate(objects, start=1):
        places.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    return (
        body
        + (
            f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
            f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF\n"
        ).encode()
    )


def encrypted(password: str) -> bytes:
    from io import BytesIO

    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(clone_from=PdfReader(BytesIO(pdf(SILK))))
    writer.encrypt(user_password=password, owner_password="owner", algorithm="RC4-128")
    made = BytesIO()
    writer.write(made)
    return made.getvalue()


def library(folder: Path, path: str | list[str] = "papers", **settings: object) -> Library:
    return read_documents(DocumentSettings.model_validate({"path": path, **settings}), folder)


def put(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        file = folder / "papers" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())


def refused(folder: Path, path: str | list[str] = "papers", **settings: object) -> str:
    with pytest.raises(InputInvalid) as raised:
        library(folder, path, **settings)
    return str(raised.value)


def test_every_format_gives_its_text(tmp_path: Path) -> None:
    page = (
        "<html><head><title>T</title><style>p {}</style></head><body><nav>Home</nav><h1>Silk &amp; steel</h1>"
        "<p>Silk is\n <b>st</b>rong.<br>Very.</p><script>alert('x')</script><!-- no --></body></html>"
    )
    put(tmp_path, {
        "a.txt": "\ufeffPlain\r\ntext.\f\x07Next.", "b.md": "# Silk\n\n* one", "sub/c.html": page,
        "sub/deep/d.pdf": pdf("Silk is a fi-\nbre of Nephila.", "Second page."), ".hidden/e.txt": "no", ".f": "no",
    })  # fmt: skip
    found = library(tmp_path)
    texts = {one.name: one.text for one in found.documents}
    assert texts == {
        "a.txt": "Plain\ntext.\n\nNext.", "b.md": "# Silk\n\n* one",
        "sub/c.html": "Silk & steel\n\nSilk is strong.\nVery.",
        "sub/deep/d.pdf": "Silk is a fibre of Nephila.\n\nSecond page.",
    }  # fmt: skip
    assert [one.file for one in found.documents][:3] == ["papers/a.txt", "papers/b.md", "papers/sub/c.html"]
    assert "4 documents (a.txt, b.md, sub/c.html, …)" in found.summary and "4 passages of 200 words" in found.summary
    assert library(tmp_path) is found, "unchanged files are read once"
    assert [one.name for one in library(tmp_path, glob="**/*.pdf").documents] == ["sub/deep/d.pdf"]
    assert [one.name for one in library(tmp_path, glob="*.md").documents] == ["b.md"]
    several = library(tmp_path, ["papers/sub", "papers/a.txt"])
    assert [one.name for one in several.documents] == ["sub/c.html", "sub/deep/d.pdf", "a.txt"]


def test_a_change_of_a_text_changes_the_digest_and_nothing_else_does(tmp_path: Path) -> None:
    put(tmp_path, {"a.txt": SILK, "b.txt": "Wood floats."})
    before = library(tmp_path)
    (tmp_path / "papers" / "a.txt").touch()
    assert library(tmp_path).digest == before.digest
    put(tmp_path, {"b.txt": "Wood sinks!"})
    after = library(tmp_path)
    assert after.digest != before.digest and after.documents[0] == before.documents[0]


def test_texts_that_take_long_to_read_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, {"a.pdf": pdf(SILK, ""), "b.txt": SILK + SILK})
    settings, cache = DocumentSettings(path="papers"), tmp_path / "home" / "documents"
    first = read_documents(settings, tmp_path, cache=cache)
    read._read.cache_clear()
    (kept,) = cache.iterdir()
    monkeypatch.setattr(formats, "_pdf", lambda *given: pytest.fail("was read again"))
    (tmp_path / "papers" / "a.pdf").rename(tmp_path / "papers" / "c.pdf")
    again = read_documents(settings, tmp_path, cache=cache)
    assert {one.text for one in again.documents} == {one.text for one in first.documents}
    assert (first.notices, again.notices) == (
        ("a.pdf has 1 of 2 pages without text",), ("c.pdf has 1 of 2 pages without text",),
    )  # fmt: skip
    monkeypatch.undo()
    read._read.cache_clear()
    kept.write_text("not JSON")
    assert read_documents(settings, tmp_path, cache=cache) == again


def test_files_that_are_no_documents_are_counted_and_a_repeated_one_is_read_once(tmp_path: Path) -> None:
    put(tmp_path, {
        "a.txt": SILK, "again.md": SILK, "cp.txt": "Fibre d\u2019araign\u00e9e".encode("cp1252"), "empty.txt": " \n",
        "image.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0", "noise.bin": bytes(range(1, 32)) * 9, "rows.csv": "a,b\n1,2",
        "wide.txt": "Steel bends.".encode("utf-16"),
    })  # fmt: skip
    found = library(tmp_path)
    assert [one.text for one in found.documents] == [SILK, "Fibre d’araignée", "Steel bends."]
    said = "\n".join(found.notices)
    assert "again.md has the text of a.txt: read once" in said
    assert "cp.txt is not UTF-8: read as cp1252; seeds.documents.encoding names another" in said
    assert "4 of 8 files are no documents: 2 binary, 1 empty, 1 tables" in said
    latin = library(tmp_path, "papers/cp.txt", encoding="latin-1")
    assert latin.documents[0].text == "Fibre d\x92araignée" and not latin.notices


@pytest.mark.parametrize(
    ("files", "path", "settings", "what", "fix"),
    [
        ({"a.pdf": pdf("", "")}, "papers", {}, r"a\.pdf: .*no text on its 2 pages", r"graft-factory\[ocr\]"),
        ({"a.pdf": encrypted("secret")}, "papers", {}, r"a\.pdf: .*is encrypted", "qpdf"),
        ({"a.pdf": b"%PDF-1.4 broken"}, "papers", {}, r"a\.pdf: .*cannot be read as PDF", "save it again"),
        ({"a.rtf": b"{x}"}, "papers", {}, r"a\.rtf: .*\.rtf files are not supported", r"\.docx, \.pdf or \.txt"),
        ({"a.txt": "é line\nmore \udcff".encode("utf-8", "surrogateescape")}, "papers", {}, "at line 2", "UTF-8"),
        ({"a.txt": "x"}, "papers/a.txt", {"encoding": "klingon"}, "unknown encoding 'klingon'", "utf-8"),
        ({"a.txt": b"\xff\xfe\xff"}, "papers/a.txt", {"encoding": "utf-8"}, "utf-8 with a byte that is not", "UTF-8"),
        ({"a.png": b"\0\0"}, "papers/a.png", {}, r"a\.png: .*is binary", "name text"),
        ({"a.png": b"\0\0", "b.txt": " "}, "papers", {}, "none of 2 files is a document .1 binary, 1 empty.", "HTML"),
        ({"rows.csv": "a,b"}, "papers/rows.csv", {}, "is a table", r"seeds\.path"),
        ({"a.txt": "x", "b.md": "y"}, "papers", {"glob": "*.pdf"}, r"no file matches '\*\.pdf'", r"a\.txt, b\.md"),
        ({"a/.keep": ""}, "papers/a", {}, "the folder is empty", "put text"),
        ({"a.txt": "x"}, "paper", {}, "no file or folder 'paper'", "did you mean 'papers'"),
    ],
)  # fmt: skip
def test_a_bad_document_says_what_to_do(
    tmp_path: Path, files: dict[str, str | bytes], path: str, settings: dict[str, str], what: str, fix: str
) -> None:
    put(tmp_path, files)
    said = refused(tmp_path, path, **settings)
    assert re.search(f"{what}.*\n.*fix: .*{fix}", said), said


def test_an_owners_password_alone_does_not_keep_a_pdf_from_being_read(tmp_path: Path) -> None:
    put(tmp_path, {"a.pdf": encrypted(""), "b.pdf": pdf("One page has words.", "")})
    found = library(tmp_path)
    assert found.documents[0].text == SILK and found.notices == ("b.pdf has 1 of 2 pages without text",)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, {"a.txt": "x", "big.pdf": b""})
    with (tmp_path / "papers" / "big.pdf").open("wb") as file:
        file.truncate(500_000_000)
    monkeypatch.setattr(formats, "text_of", lambda *given: pytest.fail("was read"))
    assert "big.pdf: seeds.documents: has 500 MB, at most 100 MB are read" in refused(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(formats, "MAX_TEXT", 5)
    put(tmp_path, {"big.pdf": pdf("Seven words.")})
    assert "characters, at most 5 are read" in refused(tmp_path)
    monkeypatch.setattr(formats, "MAX_TEXT", 1000)
    monkeypatch.setattr(read, "MAX_CHARS", 10)
    put(tmp_path, {"c.txt": "twelve chars"})
    assert "documents have over 10 characters" in refused(tmp_path)


def test_links_are_followed_within_the_folder_only(tmp_path: Path) -> None:
    put(tmp_path, {"a.txt": SILK, "sub/b.txt": "Wood floats."})
    papers = tmp_path / "papers"
    (tmp_path / "secret.txt").write_text("a secret")
    (papers / "same.txt").symlink_to("sub/b.txt")
    (papers / "loop").symlink_to(papers, target_is_directory=True)
    found = library(tmp_path)
    assert [one.name for one in found.documents] == ["a.txt", "same.txt"]
    (papers / "out.txt").symlink_to(tmp_path / "secret.txt")
    (papers / "outer").symlink_to(tmp_path, target_is_directory=True)
    (papers / "gone.txt").symlink_to("nowhere.txt")
    said = refused(tmp_path)
    assert (
        len(re.findall("outside of papers", said)) == 2
        and "gone.txt: seeds.documents: is a link that leads nowhere" in said
    )
    assert [one.name for one in library(tmp_path, glob="a*").documents] == ["a.txt"]


@pytest.mark.parametrize(
    ("name", "module", "extra"), [("a.docx", "docling", "docling"), ("a.pdf", "pypdf", "documents")]
)
def test_a_format_whose_library_is_not_installed_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str, extra: str
) -> None:
    put(tmp_path, {name: pdf("x") if name.endswith("pdf") else b"PK\3\4"})
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"{module}, which is not installed[\s\S]*graft-factory\[{extra}\]"):
        library(tmp_path)


def test_scans_are_read_by_character_recognition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries are not installed here: these stand-ins have the parts of their interface that are used."""

    class Pages(list):
        def close(self) -> None:
            self.clear()

    image = SimpleNamespace(to_numpy=lambda: "image")
    page = SimpleNamespace(render=lambda scale: image)
    seen = [SimpleNamespace(txts=("Silk is a fi-", "bre.")), SimpleNamespace(txts=None)]
    put(tmp_path, {"a.pdf": pdf("", "")})
    monkeypatch.setattr(scans, "can_recognise", lambda: True)
    for name, stand_in in {
        "pypdfium2": SimpleNamespace(PdfDocument=lambda path: Pages([page, page])),
        "rapidocr": SimpleNamespace(RapidOCR=lambda params: lambda given: seen.pop(0)),
    }.items():
        monkeypatch.setitem(sys.modules, name, stand_in)
    found = library(tmp_path)
    assert found.documents[0].text == "Silk is a fibre."
    assert found.notices == ("a.pdf is a scan: 2 pages read by character recognition",)
    seen += [SimpleNamespace(txts=("…",)), SimpleNamespace(txts=())]
    put(tmp_path, {"a.pdf": pdf("", "", "")})
    assert "has no text on its 3 pages, and character recognition finds none" in refused(tmp_path)


def test_sentences_end_where_a_reader_ends_them() -> None:
    text = f"{SILK} “Is it?” No…\n\n# Heading\n\n1. One item\n2. Another. J. Smith et al. agree.丝很强。真的！"
    assert [text[start:end] for start, end in sentences(text)] == [
        "Silk is strong.", "Dr. Ray (see Fig. 3) measured 1.3 GPa in dry fibres, e.g. of Nephila.",
        "Wet silk shrinks by half!", "“Is it?”", "No…", "# Heading", "1. One item", "2. Another.",
        "J. Smith et al. agree.丝很强。", "真的！",
    ]  # fmt: skip


TEXTS = st.lists(
    st.sampled_from(
        ["Silk is strong.", "word", "丝很强", "。", "\n\n", "\n", " ", "…", "a" * 90, "-" * 60, "e.g. 3.5", "!"]
    ),
    max_size=60,
).map("".join)


def counted(text: str) -> int:
    """Words of letters and digits; signs count only so that a passage without any is short too."""
    return len(re.findall(rf"[{UNSPACED}]|[^\W{UNSPACED}]{{1,40}}", text))


@given(st.one_of(TEXTS, st.text(max_size=200)), st.integers(5, 20), st.integers(0, 10))
def test_passages_cover_every_sentence_and_overlap_as_set(text: str, size: int, overlap: int) -> None:
    settings = ChunkSettings(words=size, overlap=min(overlap, size // 2))
    document = Document.of("a.txt", "a.txt", formats.tidy(text))
    found = passages(document, settings)
    covered = {place for one in found for place in range(one.start, one.end)}
    for place, char in enumerate(document.text):
        assert place in covered or not char.isalnum()
    for one in found:
        assert document.text[one.start : one.end] == one.text == one.text.strip()
        assert counted(one.text) <= size and one.hash == document.hash
        assert len(one.text) < 200 * size
    for before, after in pairwise(found):
        assert before.start < after.start and before.end < after.end
        assert counted(document.text[after.start : before.end]) <= settings.overlap
    assert len({one.id for one in found}) == len(found)
    for span in sentences(document.text):
        if words(document.text, span) <= size and any(char.isalnum() for char in document.text[span.start : span.end]):
            assert any(one.start <= span.start and span.end <= one.end for one in found)


def _some() -> Library:
    texts = ["Silk is a strong fibre.", "Wood floats on water.", "Steel bends; silk does not.", "水比木重。"]
    document = Document.of("a.txt", "a.txt", "\n\n".join(texts))
    settings = DocumentSettings(path="a.txt", chunk={"words": 5, "overlap": 0})
    return Library((document,), tuple(passages(document, settings.chunk)), settings)


def test_passages_are_found_by_words_or_by_meaning() -> None:
    import numpy as np

    found = _some()
    search = ByWords(found.passages)
    assert [one.text for one in search("STRONG silk", 5)] == ["Silk is a strong fibre.", "Steel bends; silk does not."]
    assert [one.text for one in search("木", 1)] == ["水比木重。"]
    assert [one.text for one in search("What is it that floated?", 2)] == ["Wood floats on water."]
    assert search("what is it", 1)[0].text == "Silk is a strong fibre.", "stop words alone are better than nothing"
    assert search("", 3) == search("granite", 3) == ByWords([])("silk", 3) == search("silk", 0) == []

    def embed(texts: list[str]) -> object:
        vectors = np.array([[text.casefold().count(char) + 0.1 for char in "kwb水"] for text in texts])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    by_meaning = ByMeaning(found.passages, embed)
    assert by_meaning("weaving wow", 2)[0].text == "Wood floats on water."
    assert by_meaning(" ", 2) == ByMeaning([], embed)("silk", 2) == []


def test_an_overlap_over_half_is_refused_and_a_path_alone_is_enough() -> None:
    with pytest.raises(ValueError, match="overlap 30 is more than half of words 50"):
        ChunkSettings(words=50, overlap=30)
    assert DocumentSettings.model_validate("papers/").paths == ("papers/",)
