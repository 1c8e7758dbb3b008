"""The gates that read a text alone: personal data, secrets, language, repetition, refusals, damage, toxicity."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pytest
from gate_cases import CASES, HELD
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.data.gates import Admission, Gate, Needs
from graft.data.gates.base import Student
from graft.data.gates.language import LanguageGate
from graft.data.gates.personal import PersonalGate, PersonalSettings
from graft.data.gates.secrets import SecretGate
from graft.data.gates.shared.languages import identifier
from graft.data.gates.shared.spans import redacted
from graft.data.gates.toxicity import ToxicityGate, ToxicitySettings
from graft.schemas.errors import GraftError
from graft.schemas.gates import GateSettings
from graft.schemas.recipe import Recipe, SeedRow, SeedSettings
from graft.schemas.rows import Proposal, Seed
from graft.schemas.tasks.base import Label
from graft.schemas.tasks.classification import ClassificationTask
from graft.schemas.tasks.guard import GuardTask
from graft.schemas.tasks.instruction import InstructionTask

FLOOR = {
    "card": 1.0, "email": 1.0, "iban": 1.0, "ip_address": 1.0, "mac_address": 1.0, "national_id": 0.94, "phone": 0.91,
    "secret": 1.0,
}  # fmt: skip
"""Least recall of each kind; docs/gates.md has what was measured."""
ALL = [*CASES, *HELD]


def recipe(task: str = "classification", **gates: object) -> Recipe:
    tasks = {
        "classification": ClassificationTask(labels=(Label(name="a"), Label(name="b"))),
        "guard": GuardTask(policy="discusses competitors' prices"),
        "instruction": InstructionTask(),
    }
    seeds = SeedSettings(rows=(SeedRow(text="one", label=""),))
    return Recipe(name="d", task=tasks[task], seeds=seeds, gates=GateSettings.model_validate(gates))


PERSONAL, SECRETS = PersonalGate(recipe(), Needs()), SecretGate(recipe(), Needs())


def rules(text: str, response: str | None = None, *, made: Recipe | None = None, label: str = "a") -> set[str]:
    """Every rule that some gate fails this text by."""
    results = (gate.check(Proposal(text, response, label)) for gate in first(made or recipe()))
    return {result.rule for result in results if not result.passed}


def first(made: Recipe, needs: Needs | None = None) -> list[Gate]:
    """The gates that need the texts alone."""
    return [gate for gate in Admission(made, needs).gates if gate.scope == "row"]


def kinds(text: str) -> set[str]:
    found = (*PERSONAL.find(text), *SECRETS.find(text))
    return {span.kind for span in found}


def test_recall_and_precision_stay_where_they_were_measured() -> None:
    right = {kind: [kind in kinds(text) for of, text in ALL if of == kind] for kind in FLOOR}
    for kind, hits in right.items():
        assert sum(hits) / len(hits) >= FLOOR[kind], kind
    false = [text for kind, text in ALL if kinds(text) - {kind}]
    assert false == []


@pytest.mark.parametrize("kind", [*FLOOR])
def test_a_finding_is_named_and_never_quoted(kind: str) -> None:
    text = next(text for of, text in CASES if of == kind and kind in kinds(text))
    made = recipe()
    results = [gate.check(Proposal(text, None, "a")) for gate in first(made) if gate.name in ("personal", "secrets")]
    failed = next(result for result in results if not result.passed)
    assert failed.rule == ("secret" if kind == "secret" else "personal_data")
    assert kind in failed.detail
    taken = [span for gate in (PERSONAL, SECRETS) for span in gate.find(text)]
    assert all(text[span.start : span.end] not in failed.detail for span in taken)


PIECES = st.sampled_from([text for _, text in ALL])


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES | st.text(max_size=20), max_size=4).map(" ".join))
def test_what_is_redacted_holds_nothing_more(text: str) -> None:
    admission = Admission(recipe(personal={"action": "redact"}, secrets="redact"))
    once, _, results = admission.clean(text, None)
    assert kinds(once) == set()
    assert admission.clean(once, None) == (once, None, ())
    assert once or not text
    assert bool(results) == bool(kinds(text)) and all(result.passed for result in results)


def test_redaction_keeps_the_rest_and_counts() -> None:
    admission = Admission(recipe(personal={"action": "redact"}))
    text, response, results = admission.clean("Mail a@example.com or b@example.com.", "or call +1 650-253-0000")
    assert (text, response) == ("Mail <EMAIL> or <EMAIL>.", "or call <PHONE>")
    assert [(r.gate, r.rule, r.detail) for r in results] == [("personal", "redacted", "2 email, 1 phone")]
    assert all(r.passed for r in admission.screen(Proposal(text, None, "a")))
    untouched = Admission(recipe())
    assert untouched.clean("Mail a@example.com", None) == ("Mail a@example.com", None, ())


def test_what_is_allowed_or_not_looked_for_passes() -> None:
    text = "write to help@shop.example please"
    assert rules(text) == {"personal_data"}
    assert rules(text, made=recipe(personal={"allow": ["Help@shop.example"]})) == set()
    assert rules(text, made=recipe(personal={"kinds": ["phone"]})) == set()
    assert rules(text, made=recipe(personal={"action": "off"})) == set()
    assert rules("ring 020 7946 0018 now", made=recipe(personal={"regions": ["GB"]})) == {"personal_data"}


def test_names_by_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def finder(text: str) -> Sequence[tuple[int, int]]:
        return [(text.index("Ada"), text.index("Ada") + 3)] if "Ada" in text else []

    monkeypatch.setattr("graft.data.gates.personal._names_of", lambda model: finder)
    gate = PersonalGate(recipe(personal={"kinds": ("name",), "names_model": "x"}), Needs())
    assert gate.check(Proposal("I am Ada, hello", None, "a")).detail == "name at characters 5 to 8"
    assert redacted("I am Ada", gate.find)[0] == "I am <NAME>"
    with pytest.raises(ValueError, match="names_model"):
        PersonalSettings(kinds=("name",))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("the order the order the order the order the order the order the order", "repeated"),
        ("the order\n" * 12, "repeated"),
        ("yes,no," * 20, "repeated"),
        ("noooooooooooooooooooooooooooo not again", "long_run"),
        ("well " + "haha" * 20 + " fine", "long_run"),
        ("I'm sorry, but I can't help with creating that text.", "refusal"),
        ("The cafÃ© closed before my parcel came.", "broken_encoding"),
        ("The caf\ufffd closed before my parcel came.", "broken_encoding"),
        ("a text with a NUL \x00 in it", "control_character"),
        ("open invoice\u202efdp.exe please", "turned"),
        ("Wo bleibt mein Paket, das ich letzte Woche bei Ihnen bestellt habe?", "language"),
        ("Où est mon colis, que j'ai commandé chez vous la semaine dernière ?", "language"),
    ],
)
def test_damage_loops_refusals_and_languages(text: str, rule: str) -> None:
    assert rule in rules(text)


@pytest.mark.parametrize(
    "text",
    [
        "no, no, no, no, that is not what I ordered, no!", "Where is my parcel? It should have come on Tuesday.",
        "I cannot log in, sorry to bother you again.", "my café order “was” 20 € — naïve of me, I know",
        "-----------------", "| a | b |\n" + "|---" * 20 + "|", "hahahahahaha that is so good",
        "ok thanks, that is all for today then", "def f(x): return x + 1  # what does it do in python?",
    ],
)  # fmt: skip
def test_what_people_write_passes(text: str) -> None:
    assert rules(text) <= {"no_letters"}


def test_guards_may_refuse_in_their_responses_and_instructions_may_not() -> None:
    refusal = "I'm sorry, but I can't help with that request."
    requested = "What does the other shop ask for this kettle?"
    assert "refusal" not in rules(requested, refusal, made=recipe("guard"), label="harmful")
    task = recipe("instruction").task
    assert isinstance(task, InstructionTask)
    assert "refusal" in rules(requested, refusal, made=recipe("instruction"), label=next(iter(task.domains)).name)


def test_the_mapped_identifier_decides_as_its_own_loader_does() -> None:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    theirs, (ours, known) = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True), identifier()
    assert known == {str(name) for name in theirs.nb_classes} and len(known) > 90
    for text in (
        "Where is my parcel?",
        "Où est mon colis ?",
        "Где моя посылка?",
        "私の荷物はどこですか",
        "12 !",
        "",
        "x" * 900,
    ):
        assert ours.classify(text) == theirs.classify(text)


def test_german_task_takes_german_and_an_unknown_language_is_not_judged() -> None:
    german = "Wo bleibt mein Paket, das ich letzte Woche bei Ihnen bestellt habe?"
    base = recipe()
    for language, passes in (("de", True), ("de-AT", True), ("en", False), ("xx", True)):
        made = base.model_copy(update={"task": base.task.model_copy(update={"language": language})})
        assert LanguageGate(made, Needs()).check(Proposal(german, None, "a")).passed is passes


@pytest.mark.parametrize(
    ("text", "language", "stray"),
    [
        ("The lamp arrived 坏 and the switch is loose.", "en", "坏"), ("My parcel is late。", "en", "。"),
        ("I paid in мay.", "en", "м"), ("Der Stuhl ist wackelig 的.", "de-AT", "的"), ("荷物が届きません Д", "ja", "Д"),
        ("荷物が届きません。 ABC", "ja", ""), ("Ω, µ and π are fine, so is café № 4 — ½ € ™ 😀 ª", "en", ""),
        ("The 小米 phone broke.", "en", ""), ("the lamp 坏", "xx", ""),
    ],
)  # fmt: skip
def test_a_stray_character_of_another_script_is_found(text: str, language: str, stray: str) -> None:
    base = recipe()
    made = base.model_copy(update={"task": base.task.model_copy(update={"language": language})})
    gate = LanguageGate(made, Needs(seeds=[Seed.of("Is 小米 sold here?" if "小米" in text else "one")]))
    result = gate.check(Proposal(text, label="a"))
    assert (result.rule, result.detail[-1:]) == (("stray_script", stray) if stray else ("passed", ""))
    assert gate.check(Proposal(text)).passed, "a person's text, which has no label yet"
    shown = Proposal(text, label="a", exemplars=(Seed.of("坏。мДя的"),))
    assert gate.check(shown).passed, "what exemplars have is not stray"


def perplexity(name: str) -> Callable[[str], float]:
    """A model to which each x is more surprising, but for a text without any."""
    return lambda text: 10.0 * 2.0 ** text.count("x")


def test_a_text_that_surprises_a_causal_model_is_rejected_with_its_perplexity() -> None:
    made = recipe(fluency={"model": "tiny", "margin": 2.0})
    texts = ["", "x", "xx"] * 20
    real = [f"real text {n} {text}" for n, text in enumerate(texts)]
    needs = Needs(seeds=[Seed.of(text) for text in real[:30]], texts=real[30:], perplexity=perplexity)
    [gate] = [one for one in Admission(made, needs).gates if one.name == "fluency"]
    passing, odd = gate.check(Proposal("real xxx", label="a")), gate.check(Proposal("real xxxxx", label="a"))
    assert (passing.rule, passing.score) == ("passed", 80.0)
    assert (odd.rule, odd.score) == ("not_fluent", 320.0) and "perplexity 320 under tiny" in odd.detail
    assert gate.check(Proposal("xxxxxx")).passed, "a person's text, which has no label yet"
    few = Needs(seeds=[Seed.of("real"), Seed.of("real x")], perplexity=perplexity)
    [gate] = [one for one in Admission(made, few).gates if one.name == "fluency"]
    assert gate.check(odd_one := Proposal("x" * 5, label="a")).passed, "two texts tell little, so the bound is far"
    [gate] = [one for one in Admission(made, Needs(perplexity=perplexity)).gates if one.name == "fluency"]
    assert gate.check(odd_one).passed and gate.check(odd_one).score == 320.0, "without real texts there is no bound"
    for asked, given_ in ((recipe(), needs), (made, Needs())):
        assert "fluency" not in {one.name for one in Admission(asked, given_).gates}


def test_a_guard_student_reads_text_and_response() -> None:
    made = recipe(toxicity=ToxicitySettings(student="st_x", max_probability=0.4).model_dump())

    def score(texts: Sequence[str]) -> list[float]:
        return [0.9 if "competitor" in text else 0.1 for text in texts]

    gates = first(made, Needs(student=guard(score)))
    assert gates[-1].name == "toxicity" and "toxicity" not in [gate.name for gate in first(made)]
    result = gates[-1].check(Proposal("what do you ask?", "less than our competitor", "a"))
    assert (result.rule, result.score) == ("toxic", 0.9)
    assert gates[-1].check(Proposal("what do you ask?", None, "a")).passed


def guard(score: Callable[[Sequence[str]], Sequence[float]], names: tuple[str, ...] = ("safe", "harmful")) -> Student:
    """A guard student by the probability of harm."""
    return lambda name, texts: (names, [(1 - each, each) for each in score(texts)])


def test_a_student_that_does_not_tell_harm_from_safety_is_refused() -> None:
    made = recipe(toxicity={"student": "st_x", "label": "spam"})
    with pytest.raises(GraftError, match="does not separate harmful from safe") as caught:
        first(made, Needs(student=guard(lambda texts: [0.5] * len(texts))))
    assert caught.value.where == "gates.toxicity.label" and "safe, harmful" in caught.value.fix
    assert first(made, Needs(student=guard(lambda texts: [0.5] * len(texts), ("ham", "spam"))))[-1].name == "toxicity"


@pytest.mark.parametrize("scores", [[float("nan")], [0.1, float("nan")], [float("nan"), 0.1]])
def test_a_score_that_is_no_number_lets_nothing_in(scores: list[float]) -> None:
    made = recipe(toxicity={"student": "st_x", "max_probability": 0.5})
    gate = ToxicityGate(made, Needs(student=guard(lambda texts: scores[: len(texts)])))
    assert gate.check(Proposal("what do you ask?", "nothing" if len(scores) > 1 else None, "a")).rule == "toxic"


@pytest.mark.parametrize("text", ["a@" * 50_000, "1 " * 50_000, "4111 " * 20_000, "A1:" * 40_000, "password: " * 10_000,
                                  "-----BEGIN " * 10_000, "x" * 1_000_000, "DE89 " * 20_000, "sk-" * 50_000,
                                  "://a:" * 20_000,
                                  "ab" * 100_000, "1:" * 50_000, "+1 " * 20_000, "eyJ" + "a." * 50_000])  # fmt: skip
def test_no_text_holds_the_gates_up(text: str) -> None:
    begun = time.thread_time()  # a busy machine takes no CPU time of ours
    rules(text, made=recipe(max_chars=10_000_000))
    assert time.thread_time() - begun < 10
