"""Gates: what a candidate must pass besides its reviews. A failure names its rule, its score and the row it hit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graft.data.gates.base import Gate, failed, passed
from graft.data.gates.contamination import ContaminationGate, TestText
from graft.data.gates.damage import DamageGate
from graft.data.gates.exact import ExactIndex
from graft.data.gates.format import FormatGate
from graft.data.gates.language import LanguageGate
from graft.data.gates.leak import LabelLeakGate, PromptLeakGate
from graft.data.gates.length import LengthGate
from graft.data.gates.near import NearIndex
from graft.data.gates.personal import PersonalGate
from graft.data.gates.refusal import RefusalGate
from graft.data.gates.repetition import RepetitionGate
from graft.data.gates.schema import SchemaGate
from graft.data.gates.secrets import SecretGate
from graft.data.gates.spans import Finder, redacted, told
from graft.data.gates.toxicity import Scorer, ToxicityGate
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Seed

__all__ = ["Admission", "Gate", "TestText", "redactors", "text_gates"]

LONGEST_FIND = 2_000
"""Characters past the length limit that are read for a find which begins before it."""


def text_gates(
    recipe: Recipe,
    fragments: Sequence[str] = (),
    evaluation: Sequence[TestText] = (),
    toxicity: Scorer | None = None,
) -> list[Gate]:
    """The gates that need no other row, as the recipe sets them: length, then cheap ones first. A new gate is named
    here."""
    settings = recipe.gates
    planned: list[tuple[bool, Callable[[], Gate]]] = [
        (True, lambda: LengthGate(recipe)),
        (True, lambda: SchemaGate(recipe)),
        (True, lambda: FormatGate(recipe)),
        (settings.damage, DamageGate),
        (settings.repetition.action != "off", lambda: RepetitionGate(settings.repetition)),
        (settings.label_leak, lambda: LabelLeakGate(recipe)),
        (settings.prompt_leak, lambda: PromptLeakGate(fragments)),
        (settings.secrets != "off", SecretGate),
        (settings.personal.action != "off", lambda: PersonalGate(settings.personal)),
        (settings.refusals, lambda: RefusalGate(recipe)),
        (bool(evaluation), lambda: ContaminationGate(evaluation, settings.near_duplicate)),
        (settings.language.action != "off", lambda: LanguageGate(recipe)),
    ]
    gates = [make() for wanted, make in planned if wanted]
    if toxicity is not None:
        gates.append(ToxicityGate(toxicity, settings.toxicity.max_probability))
    return gates


def redactors(recipe: Recipe) -> list[tuple[str, Finder]]:
    """Gate name to what finds the pieces that the recipe has taken out of texts rather than rejecting the row."""
    settings, found = recipe.gates, list[tuple[str, Finder]]()
    if settings.secrets == "redact":
        found.append((SecretGate.name, SecretGate().find))
    if settings.personal.action == "redact":
        found.append((PersonalGate.name, PersonalGate(settings.personal).find))
    return found


class Duplicates:
    """Exact and near duplicates of registered rows. `where` tells people what the rows are: seed, published or run."""

    def __init__(self, where: str, threshold: float) -> None:
        self._where, self._exact, self._near = where, ExactIndex(), NearIndex(threshold)
        self._known: set[str] = set()
        self._passed = (passed(f"exact_{where}"), passed(f"near_{where}"))

    def add(self, row_id: str, text: str) -> None:
        """Register a row; registering it again changes nothing."""
        if row_id not in self._known:
            self._known.add(row_id)
            self._exact.add(row_id, text)
            self._near.add(row_id, text)

    def knows(self, row_id: str) -> bool:
        """Whether a row with this id is registered."""
        return row_id in self._known

    def check(self, text: str) -> tuple[GateResult, ...]:
        """Two passes, or a pass and a failure, or a failure."""
        neighbour = self._exact.find(text)
        if neighbour:
            detail = f"says the same as {neighbour} ({self._where})"
            return (failed(self._passed[0].gate, "exact_duplicate", detail, 1.0, neighbour),)
        neighbour, score = self._near.find(text)
        if neighbour:
            detail = f"nearly says the same as {neighbour} ({self._where}): Jaccard {score:.2f}"
            result = failed(self._passed[1].gate, "near_duplicate", detail, round(score, 4), neighbour)
            return (self._passed[0], result)
        return self._passed


class Admission:
    """The gates of one run. `screen` needs no other candidate; `admit` decides duplicates within the run.

    `published` holds (id, text, label) of earlier versions; `prompt_fragments` the fixed sentences of the prompts;
    `evaluation` what is known of the texts that students are judged on (`Lake.test_texts`): no row may repeat one;
    `toxicity` asks the guard student, where the recipe names one.
    """

    def __init__(
        self,
        recipe: Recipe,
        seeds: Sequence[Seed],
        published: Sequence[tuple[str, str, str]],
        prompt_fragments: Sequence[str] = (),
        evaluation: Sequence[TestText] = (),
        toxicity: Scorer | None = None,
    ) -> None:
        settings = recipe.gates
        self._gates = text_gates(recipe, prompt_fragments, evaluation, toxicity)
        self._redactors, self._length, self._most = redactors(recipe), LengthGate(recipe), settings.max_chars
        self._others: list[Duplicates] = []
        if settings.against_seeds:
            self._others.append(_filled("seed", settings.near_duplicate, [(seed.id, seed.text) for seed in seeds]))
        if settings.against_published:
            rows = [(row_id, text) for row_id, text, _ in published]
            self._others.append(_filled("published", settings.near_duplicate, rows))
        self._run = Duplicates("run", settings.near_duplicate)

    def clean(self, text: str, response: str | None) -> tuple[str, str | None, tuple[GateResult, ...]]:
        """Text and response with what the recipe redacts replaced by `<EMAIL>` and the like; a result for each gate
        that found something, with kinds and numbers. A text without any comes back as it is.

        Where something is redacted, a text or response over the length limit is cut to it before it is looked through,
        and the first result is the length gate's failure: the row is rejected, and what was cut is kept nowhere.
        """
        results: list[GateResult] = []
        verdict = self._length.check(text, response, "")
        if self._redactors and verdict.rule in ("too_long", "response_too_long"):
            results.append(verdict)
            text, response = self._cut(text), response and self._cut(response)
        for name, find in self._redactors:
            text, count = redacted(text, find)
            if response:
                response, more = redacted(response, find)
                count += more
            if count:
                result = GateResult(gate=name, rule="redacted", passed=True, score=count.total(), detail=told(count))
                results.append(result)
        return text, response, tuple(results)

    def _cut(self, text: str) -> str:
        """The text up to the length limit; a find that the limit would cut in two goes whole."""
        seen, most = text[: self._most + LONGEST_FIND], self._most
        for span in (span for _, find in self._redactors for span in find(seen)):
            if span.start < most < span.end:
                most = span.start
        return text[:most]

    def screen(self, text: str, response: str | None, label: str) -> tuple[GateResult, ...]:
        """One result a gate, cheap ones first; stops at the first failure, which is then the last result."""
        results: list[GateResult] = []
        for gate in self._gates:
            results.append(gate.check(text, response, label))
            if not results[-1].passed:
                return tuple(results)
        for other in self._others:
            results.extend(other.check(text))
            if not results[-1].passed:
                break
        return tuple(results)

    def admit(self, candidate_id: str, text: str, response: str | None, label: str) -> tuple[GateResult, ...]:
        """Duplicates within the run. A text that passes is registered, so the order of calls decides: settle it.

        Asking again for a registered id passes.
        """
        if self._run.knows(candidate_id):
            return (passed("exact_run"), passed("near_run"))
        results = self._run.check(text)
        if results[-1].passed:
            self._run.add(candidate_id, text)
        return results

    def remember(self, candidate_id: str, text: str, label: str) -> None:
        """Register an accepted row of a resumed shard or of an earlier round."""
        self._run.add(candidate_id, text)


def _filled(where: str, threshold: float, rows: Sequence[tuple[str, str]]) -> Duplicates:
    index = Duplicates(where, threshold)
    for row_id, text in rows:
        index.add(row_id, text)
    return index
