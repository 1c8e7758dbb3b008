"""Scripts of languages, and characters that are of another one."""

from __future__ import annotations

import re
import unicodedata

SCRIPTS = {
    "ru": "CYRILLIC", "uk": "CYRILLIC", "be": "CYRILLIC", "bg": "CYRILLIC", "mk": "CYRILLIC", "kk": "CYRILLIC",
    "el": "GREEK", "he": "HEBREW", "yi": "HEBREW", "ar": "ARABIC", "fa": "ARABIC", "ur": "ARABIC", "hi": "DEVANAGARI",
    "mr": "DEVANAGARI", "ne": "DEVANAGARI", "bn": "BENGALI", "ta": "TAMIL", "te": "TELUGU", "th": "THAI",
    "ko": "HANGUL|CJK", "zh": "CJK", "ja": "CJK|HIRAGANA|KATAKANA",
    "ka": "GEORGIAN", "hy": "ARMENIAN",
    **dict.fromkeys(("en", "de", "fr", "es", "it", "pt", "nl", "sv", "da", "no", "nb", "fi", "pl"), "LATIN"),
    **dict.fromkeys(("cs", "sk", "sl", "hr", "ro", "hu", "tr", "et", "lv", "lt", "id", "ms", "vi", "sw"), "LATIN"),
}  # fmt: skip
"""Language to the names of its script in Unicode, joined by "|". A language that is not here is not checked."""
_OTHERS = (
    "KHMER", "LAO", "TIBETAN", "MYANMAR", "SINHALA", "GUJARATI", "GURMUKHI", "KANNADA", "MALAYALAM", "ETHIOPIC",
)  # fmt: skip
_KNOWN = {name for value in SCRIPTS.values() for name in value.split("|")} - {"LATIN", "GREEK"} | {*_OTHERS}
_WIDE = {"IDEOGRAPHIC": "CJK", "FULLWIDTH": "CJK"}
_NAME = re.compile(r"[A-Z]+")


def scripts_in(text: str) -> dict[str, str]:
    """The scripts of a text beside Latin and Greek, which formulas use too: name to the first character of each."""
    found: dict[str, str] = {}
    for sign in dict.fromkeys(text) if not text.isascii() else ():
        begun = _NAME.match(unicodedata.name(sign, ""))
        name = _WIDE.get(begun[0], begun[0]) if begun else ""
        if name in _KNOWN:
            found.setdefault(name, sign)
    return found
