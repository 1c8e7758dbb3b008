"""The language gate: rejects a text in another language than the task's, if it is long enough to be sure, and stray
characters of another script."""

from __future__ import annotations

from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field

from graft.data.gates.base import Gate, Needs
from graft.data.gates.shared.languages import identifier
from graft.data.gates.shared.scripts import SCRIPTS, scripts_in
from graft.schemas.base import OFF, Value
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Proposal

SEEN_CHARS = 1_000
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
        identifier()

    def check(self, proposal: Proposal) -> GateResult:
        """See the class; the response is not checked, as it may be code or a translation."""
        text = proposal.text
        if self._scripts and proposal.label and (found := self._stray(proposal)):
            return self.failed("stray_script", f"holds characters of another script, such as {found}")
        if len(text) < self._settings.min_chars:
            return self.passed
        known_by, known = identifier()
        if self._wanted not in known:
            return self.passed
        language, probability = known_by.classify(text[:SEEN_CHARS])
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
