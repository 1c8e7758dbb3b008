"""The language gate: a text long enough to be sure of that is written in another language than the task's."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from graft.data.gates.base import failed, passed
from graft.schemas.gates import LanguageSettings
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult

SEEN_CHARS = 1_000
NEAR = ({"no", "nb", "nn", "da"}, {"id", "ms"}, {"hr", "sr", "bs", "sl"}, {"cs", "sk"}, {"gl", "pt", "es"})
"""Languages that an identifier cannot tell apart well enough to reject a row by."""


class LanguageGate:
    """Rule `language`; the score is the probability of the other language. A task language that the identifier does
    not know is not checked. Names of one's own, code and lists are no language, so only a clear verdict rejects.
    """

    name = "language"

    def __init__(self, recipe: Recipe) -> None:
        self._settings: LanguageSettings = recipe.gates.language
        self._wanted = recipe.task.language.split("-")[0].lower()
        self._same = {self._wanted}.union(*(group for group in NEAR if self._wanted in group))
        self._passed = passed(self.name)

    def check(self, text: str, response: str | None, label: str) -> GateResult:
        """See the class; the response is not looked at, as it may be code or a translation."""
        if len(text) < self._settings.min_chars:
            return self._passed
        identifier, known = _identifier()
        if self._wanted not in known:
            return self._passed
        language, probability = identifier.classify(text[:SEEN_CHARS])
        if language in self._same or probability < self._settings.min_probability:
            return self._passed
        detail = f"reads as {language}, not {self._wanted}"
        return failed(self.name, "language", detail, round(float(probability), 4))


@lru_cache(maxsize=1)
def _identifier() -> tuple[Any, frozenset[str]]:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    made = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    return made, frozenset(str(name) for name in made.nb_classes)
