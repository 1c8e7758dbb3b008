"""The language gate: rejects a text in another language than the task's, if it is long enough to be sure, and stray
characters of another script."""

from __future__ import annotations

import lzma
import mmap
import shutil
import tempfile
import zipfile
from array import array
from threading import Lock
from types import MappingProxyType
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from graft.data.gates.base import Gate, Needs
from graft.data.gates.shared.scripts import SCRIPTS, scripts_in
from graft.schemas.base import OFF, Value
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Proposal

SEEN_CHARS = 1_000
LOCAL_HEADER = 30
"""Bytes of a zip entry's local header before its name."""
NEAR = ({"no", "nb", "nn", "da"}, {"id", "ms"}, {"hr", "sr", "bs", "sl"}, {"cs", "sk"}, {"gl", "pt", "es"})
"""Languages that an identifier cannot distinguish well enough to reject a row."""


class LanguageSettings(Value):
    """Language identification by words, and stray characters; the format gate checks most letters' script."""

    action: Annotated[Literal["off", "reject"], OFF] = "reject"
    min_chars: int = Field(default=40, ge=1, description="shorter texts are not checked: no identifier is sure of them")
    min_probability: float = Field(default=0.9, gt=0, le=1, description="how sure it must be of another language")


class Settings(Value):
    """Fields under `gates`."""

    language: LanguageSettings = LanguageSettings()


class LanguageGate(Gate):
    """Rules: language, stray_script.

    The score of `language` is the probability of the other language. A task language that the identifier does
    not know is not checked. Names of one's own, code and lists are no language, so only a clear verdict rejects.
    A script is stray if neither the language nor a seed or exemplar has it; a text that a person gave (it has no label
    when it is read) and tasks that may quote any text are not checked for it.
    """

    Settings, cost, name, version = Settings, 40, "language", 2
    people, off = False, MappingProxyType({"language": {"action": "off"}})

    def __init__(self, recipe: Recipe, needs: Needs) -> None:
        super().__init__(recipe, needs)
        self._settings = recipe.gates.of(Settings).language
        self._wanted = recipe.task.language.split("-")[0].lower()
        own = SCRIPTS.get(self._wanted, "") if not recipe.task.free_form else ""
        self._scripts = {*own.split("|")}.union(*(scripts_in(seed.text) for seed in needs.seeds)) if own else set[str]()
        self._same = {self._wanted}.union(*(group for group in NEAR if self._wanted in group))

    @classmethod
    def enabled(cls, recipe: Recipe) -> bool:
        """As the recipe sets."""
        return recipe.gates.of(Settings).language.action != "off"

    def load(self) -> None:
        """The identifier, which takes half a second."""
        _identifier()

    def check(self, proposal: Proposal) -> GateResult:
        """See the class; the response is not checked, as it may be code or a translation."""
        text = proposal.text
        if self._scripts and proposal.label and (found := self._stray(proposal)):
            return self.failed("stray_script", f"holds characters of another script, such as {found}")
        if len(text) < self._settings.min_chars:
            return self.passed
        identifier, known = _identifier()
        if self._wanted not in known:
            return self.passed
        language, probability = identifier.classify(text[:SEEN_CHARS])
        if language in self._same or probability < self._settings.min_probability:
            return self.passed
        detail = f"reads as {language}, not {self._wanted}"
        return self.failed("language", detail, round(float(probability), 4))

    def _stray(self, proposal: Proposal) -> str:
        """The first character of a script that the text should not have; empty if there is none."""
        found = scripts_in(proposal.text[:SEEN_CHARS])
        strange = found.keys() - self._scripts
        if strange:
            strange -= set().union(*(scripts_in(seed.text) for seed in proposal.exemplars))
        return next((sign for name, sign in found.items() if name in strange), "")


KIND = LanguageGate


_loading = Lock()
_loaded: list[tuple[Any, frozenset[str]]] = []


def _identifier() -> tuple[Any, frozenset[str]]:
    with _loading:
        if not _loaded:
            _loaded.append(_made())
    return _loaded[0]


def _made() -> tuple[Any, frozenset[str]]:
    """The identifier, and the languages that it knows.

    Its own loader takes 0.9 s and 80 MB. Mapped from a file without a name, the model takes 0.6 s, and of its memory
    only the pages that texts touch, which the system may take back.
    """
    from py3langid.langid import LanguageIdentifier

    found = _mapped()
    made = LanguageIdentifier(
        found["ptc"], found["pc"], found["classes"].tolist(), found["nextmove"].data,
        array("i", found["out_feat"].tobytes()), norm_probs=True, tk_row=found["nextmove_row"].data,
    )  # fmt: skip
    made._rowbase = array("I", made._rowbase)
    return made, frozenset(str(name) for name in made.nb_classes)


def _mapped() -> dict[str, NDArray[Any]]:
    """The arrays of the packed model: an .npz holds each as it is, after a header."""
    from py3langid.langid import MODEL_DIR, MODEL_FILE

    found: dict[str, NDArray[Any]] = {}
    with tempfile.TemporaryFile() as file:
        with lzma.open(MODEL_DIR / MODEL_FILE) as packed:
            shutil.copyfileobj(packed, file, 2**20)
        file.flush()
        whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with zipfile.ZipFile(file) as entries:
            for entry in entries.infolist():
                with entries.open(entry) as member:
                    np.lib.format.read_magic(member)
                    shape, _, kind = np.lib.format.read_array_header_1_0(member)
                    header = member.tell()
                name, extra = (int.from_bytes(whole[at : at + 2], "little") for at in _lengths(entry))
                begin = entry.header_offset + LOCAL_HEADER + name + extra + header
                count = int(np.prod(shape))
                found[entry.filename.removesuffix(".npy")] = np.frombuffer(whole, kind, count, begin).reshape(shape)
    return found


def _lengths(entry: zipfile.ZipInfo) -> tuple[int, int]:
    """Places of the lengths of an entry's name and extra field in its local header."""
    return entry.header_offset + 26, entry.header_offset + 28
