"""Text of scanned pages: pypdfium2 draws them, RapidOCR recognises the characters; its models are in its wheel."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

MODULES = ("rapidocr", "pypdfium2", "onnxruntime")
DOTS_PER_INCH = 200


def can_recognise() -> bool:
    """Return True if the extra `ocr` is installed."""
    return all(find_spec(name) is not None for name in MODULES)


def recognised(path: Path, most: int) -> str:
    """The text of a PDF's pages, a line for each recognised line; about 2 to 5 s of CPU a page.

    Args:
        path: the PDF
        most: characters after which no further page is read
    """
    import pypdfium2
    from rapidocr import RapidOCR

    engine = RapidOCR(params={"Global.log_level": "error"})
    pages, size = list[str](), 0
    document = pypdfium2.PdfDocument(path)
    try:
        for page in document:
            found = engine(page.render(scale=DOTS_PER_INCH / 72).to_numpy())
            pages.append("\n".join(found.txts or ()))
            size += len(pages[-1])
            if size > most:
                break
    finally:
        document.close()
    return "\n\n".join(pages)
