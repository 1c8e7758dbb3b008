"""`graft teacher`: what a teacher can write and judge decides the advice, before anything is spent."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_faults import Behaviour
from fake_llm import WORDS, FakeLLM
from fake_replies import judged_in, prompt_in
from hypothesis import given as given_
from hypothesis import strategies as st
from in_thread import InThread
from test_flows_make_dataset import ROOT, environment, here

import graft
from graft.data.seeds import load_labelled
from graft.data.verdicts import unseen
from graft.schemas.home import Home
from graft.schemas.verdict import BY_HAND, LIKELY, MARGIN, Gain, decide

TOPICS = {
    "alpha": ("football", "gardening", "astronomy", "knitting", "sailing"),
    "beta": ("soup", "engines", "violins", "taxes", "dentists"),
}
"""Subjects of each label: nothing but examples tells which label has which, and the seeds show only the first."""
FRAMES = (
    "my neighbour talked about {} all evening", "a long article on {} in the paper", "she knows everything about {}",
    "we spent the whole weekend on {}", "is there anything new about {} this year", "I never understood {} at all",
    "they gave a lecture on {} at the library", "his letters from abroad are mostly about {}",
    "the children asked me about {} again", "there was a quiz on {} at the pub", "nobody here cares for {} any more",
    "a friend sent me three books on {}",
)  # fmt: skip


STABLE = ("advice", "policy", "reasons", "gains", "auc", "calls", "price_usd", "key")


def label_of(text: str) -> str:
    return next((name for name, topics in TOPICS.items() if any(topic in text for topic in topics)), "alpha")


class Teacher(FakeLLM):
    """Writes texts on its label's subjects if it `writes`, else random words; judges by subject if it `judges`."""

    def __init__(self, writes: bool, judges: bool) -> None:
        super().__init__(Behaviour(logprobs=False))
        self.writes, self.judges = writes, judges

    def _free(self, body: dict[str, Any], rng: random.Random, chat: bool) -> str:
        if "Which label?" not in prompt_in(body):
            return super()._free(body, rng, chat)
        return label_of(judged_in(body)) if self.judges else rng.choice(list(TOPICS))

    def _value(self, schema: dict[str, Any], rng: random.Random, name: str, low_rate: float) -> Any:
        if name != "text" or not self.writes:
            return super()._value(schema, rng, name, low_rate)
        topic, frame = rng.choice(TOPICS[self._label]), rng.choice(FRAMES)
        return f"{frame.format(topic)}, said {rng.choice(WORDS)} {rng.choice(WORDS)}"

    def _payload(self, body: dict[str, Any], rng: random.Random, chat: bool) -> dict[str, Any]:
        self._label = "beta" if "the second kind" in prompt_in(body) else "alpha"
        return super()._payload(body, rng, chat)


@contextmanager
def serving(*, writes: bool = True, judges: bool = True) -> Iterator[tuple[Teacher, str]]:
    """A teacher and its server's address."""
    fake = Teacher(writes, judges)
    with InThread(fake.app()) as server:
        yield fake, server.url


def write(folder: Path, url: str, **more: Any) -> Path:
    """A recipe with two seeds a label and a test file of 120 rows."""
    every = [(label, topic, frame) for label, topics in TOPICS.items() for topic, frame in product(topics, FRAMES)]
    rows = [(frame.format(topic), label) for label, topic, frame in every]
    (folder / "test.jsonl").write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in rows))
    seeds = [{"text": f"a short note on {topics[0]}, number {n}", "label": label} for label, topics in TOPICS.items()
             for n in ("one", "two")]  # fmt: skip
    recipe = {
        "name": "topics",
        "task": {"kind": "classification", "labels": [
            {"name": "alpha", "description": "the first kind"}, {"name": "beta", "description": "the second kind"},
        ]},
        "seeds": {"rows": seeds}, "method": {"kind": "gra", "reviewers": 1, "max_cosine": None},
        "models": [
            {"name": "chat", "provider": "openai", "model": "m", "base_url": url, "price": {"input": 1, "output": 2}},
        ],
        "roles": {"generator": {"max_tokens": 64}, "reviewer": {"max_tokens": 64}},
        "target": {"rows_per_label": 12}, "limits": {"concurrency": 16}, "student": {"test": "test.jsonl", "epochs": 1},
        **more,
    }  # fmt: skip
    file = folder / "topics.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return file


def ask(home: Path, recipe: Path, *more: str) -> dict[str, Any]:
    done = here(home, "teacher", str(recipe), "--json", *more)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("writes", "judges", "advice", "policy"),
    [(True, True, "both", "intended"), (True, False, "generate", "intended"), (False, True, "label", None),
     (False, False, "hand", None)],
)  # fmt: skip
def test_the_advice_follows_what_the_teacher_can(
    tmp_path: Path, writes: bool, judges: bool, advice: str, policy: str | None
) -> None:
    """A model that writes and judges at random leaves labels by hand, which are worth much here."""
    with serving(writes=writes, judges=judges) as (_, url):
        found = ask(tmp_path / "home", write(tmp_path, url), "--rows", "60", "--pilot", "16")
    assert (found["advice"], found["policy"]) == (advice, policy), found["reasons"]
    judge, differ = found["teachers"][0]["accuracy"], found["auc"]
    assert (judge == 1.0) is judges and 0.4 < found["base"] < 0.8
    assert differ > 0.9 and found["texts"] == 32 and found["used_rows"] == found["known"] == 60
    assert {one["rows"] for one in found["teachers"]} == {40}, "models label fewer rows than students are tested on"
    relabelled = next(one for one in found["gains"] if one["policy"] == "relabelled")
    assert (relabelled["low"] > 0) is (writes and judges)


def test_where_nothing_can_be_learned_it_says_rethink(tmp_path: Path) -> None:
    """Labels drawn at random: neither the model, nor its texts, nor labels by hand beat the seeds."""
    with serving(writes=False, judges=False) as (_, url):
        recipe, rng = write(tmp_path, url), random.Random(3)
        rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
        noise = [json.dumps({**row, "label": rng.choice(list(TOPICS))}) for row in rows]
        (tmp_path / "noise.jsonl").write_text("\n".join(noise))
        done = here(tmp_path / "home", "teacher", str(recipe), "--file", str(tmp_path / "noise.jsonl"))
    assert done.returncode == 0, done.stderr
    flat = " ".join(done.stdout.split())
    assert (
        "Verdict of graft teacher: rethink" in flat
        and "No way is 80% likely to beat the seeds on 120 known rows" in flat
    )
    assert "more seeds, take a larger model, or describe the labels better" in flat


def test_a_rerun_makes_no_call_and_the_run_reuses_the_pilot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeated by the command line, and as a Python function."""
    home = tmp_path / "home"
    with serving() as (fake, url):
        recipe = write(tmp_path, url)
        before = here(home, "estimate", str(recipe))
        assert f"graft teacher {recipe}" in " ".join(before.stdout.split())
        first = ask(home, recipe, "--rows", "20", "--pilot", "12")
        made = fake.calls
        assert made == first["calls"] and first["price_usd"] > 0
        again = ask(home, recipe, "--rows", "20", "--pilot", "12")
        with monkeypatch.context() as patch:
            patch.setenv("GRAFT_HOME", str(home))
            assert [one.gain for one in graft.teacher(recipe, rows=20).gains] == [one["gain"] for one in first["gains"]]
        assert fake.calls == made, "every call is in the journal"
        assert [again[name] for name in STABLE] == [first[name] for name in STABLE]
        done = here(home, "run", str(recipe))
        assert done.returncode == 0, done.stderr
        assert fake.calls < made + 60 and not fake.stats()["duplicates"], "the pilot's calls are not sent again"
        assert done.stdout.startswith("graft teacher, 20") and "on 20 known rows" in done.stdout.splitlines()[0]
        assert "on 20 known rows" in here(home, "estimate", str(recipe)).stdout
        assert "Verdict of graft teacher" in here(home, "show", "topics").stdout
    assert not list(home.glob("**/pilot")), "the scratch lake is gone"


def test_rows_that_a_verdict_has_seen_are_known(tmp_path: Path) -> None:
    """At most half of the recipe's own test file is used, and `graft train` evaluates on the rest."""
    home = tmp_path / "home"
    with serving() as (_, url):
        recipe = write(tmp_path, url)
        rows = load_labelled(tmp_path / "test.jsonl", "text", "label", None)
        assert unseen(Home(home), rows) == (rows, "")
        assert ask(home, recipe, "--rows", "90", "--pilot", "2")["used_rows"] == 60
        left, note = unseen(Home(home), rows)
        assert [label for _, label in left] == ["alpha"] * 30 + ["beta"] * 30
        assert note == "60 of 120 test rows are left out: graft teacher has used them for its verdict"
        ask(home, recipe, "--rows", "500", "--pilot", "2", "--file", str(tmp_path / "test.jsonl"))
    assert unseen(Home(home), rows) == (rows, "graft teacher has seen all 120 test rows: none could be left out")


def test_without_a_labelled_file_the_seeds_are_left_out_in_turn(tmp_path: Path) -> None:
    with serving() as (fake, url):
        found = ask(tmp_path / "home", write(tmp_path, url, student={}), "--pilot", "3")
        few = [body for _, body in fake.seen if "Which label?" in prompt_in(body) and "a short note" in str(body)]
    assert found["known"] == 4 and found["source"] == "" and found["used_rows"] == 0
    for body in few:
        shown = judged_in(body)
        assert not shown.startswith("a short note") or f"- {shown} =>" not in str(body), "its own label is not shown"
    told = " ".join(found["reasons"])
    assert "Very few known rows: the interval of a gain is" in told and "the generator was shown" in told
    assert found["advice"] == "rethink" and not any(one["way"] in ("label", "hand") for one in found["gains"])


@pytest.mark.parametrize("top_up", [{}, {"top_up": {"kind": "gra", "reviewers": 1, "max_cosine": None}}])
def test_texts_of_ones_own_are_labelled(tmp_path: Path, top_up: dict[str, Any]) -> None:
    """The file of `--texts`, or that of a method that labels; a pilot is written only if some method writes."""
    with serving(writes=False) as (_, url):
        recipe, own = write(tmp_path, url), tmp_path / "own.jsonl"
        mine = [f"they asked about {topic} twice in week {n}" for topics in TOPICS.values() for topic in topics
                for n in range(4)]  # fmt: skip
        held = [json.loads(line)["text"] for line in (tmp_path / "test.jsonl").read_text().splitlines()]
        own.write_text("\n".join(json.dumps({"text": text}) for text in [*mine, mine[0], *held]))
        more = ["--texts", str(own)]
        if top_up:
            recipe, more = write(tmp_path, url, method={"kind": "label", "texts": "own.jsonl", **top_up}), []
        found = ask(tmp_path / "home", recipe, *more, "--rows", "60", "--judged", "30", "--pilot", "6")
    assert found["own_texts"] == 100, "those of known rows are left out, and repeated ones"
    assert found["advice"] == "label" and "100 of your texts labelled by chat" in found["reasons"][0].lower()
    assert found["candidates"] == 12


def test_a_recipe_that_writes_no_text_has_no_pilot(tmp_path: Path) -> None:
    with serving() as (_, url):
        (tmp_path / "own.jsonl").write_text("\n".join(json.dumps({"text": f"soup in week {n}"}) for n in range(12)))
        recipe = write(tmp_path, url, method={"kind": "label", "texts": "own.jsonl"})
        found = ask(tmp_path / "home", recipe, "--rows", "30")
    assert found["candidates"] == 0 and {one["way"] for one in found["gains"]} == {"label", "hand"}
    assert "No text was generated: the recipe's method writes none." in found["reasons"]


@pytest.mark.parametrize(
    ("words", "more", "code", "told"),
    [
        (["--file", "odd.jsonl"], {}, 2, "unknown label 'gamma'"),
        (["--file", "none.jsonl"], {}, 2, "there is no such file"),
        (["--file", "one.jsonl"], {}, 1, "fewer than two labels"),
        ([], {"task": {"kind": "instruction", "domains": [{"name": "alpha"}, {"name": "beta"}]}}, 1, "have none"),
        ([], {"student": {"multi_label": 0.5}}, 1, "student.multi_label"),
        ([], {"limits": {"money_usd": 0.0}}, 3, "no model labelled a known row"),
    ],
)  # fmt: skip
def test_problems_are_named_before_or_instead_of_a_verdict(
    tmp_path: Path, words: list[str], more: dict[str, Any], code: int, told: str
) -> None:
    (tmp_path / "odd.jsonl").write_text('{"text": "a", "label": "gamma"}\n')
    (tmp_path / "one.jsonl").write_text('{"text": "a", "label": "alpha"}\n')
    words = [str(tmp_path / word) if word.endswith(".jsonl") else word for word in words]
    with serving() as (fake, url):
        done = here(tmp_path / "home", "teacher", str(write(tmp_path, url, **more)), *words)
        assert fake.calls == 0
    assert done.returncode == code and told in done.stderr, done.stderr


def test_a_pilot_leaves_half_of_a_cap_to_the_judges(tmp_path: Path) -> None:
    """Without its share the pilot of 32 candidates would leave 201 of these tokens."""
    with serving() as (_, url):
        recipe = write(tmp_path, url, limits={"concurrency": 16, "tokens": 9_000})
        found = ask(tmp_path / "home", recipe, "--rows", "40", "--judged", "10", "--pilot", "16")
    assert [one["answered"] for one in found["teachers"]] == [10, 10] and 4 < found["candidates"] < 32, found


def test_a_model_that_does_not_answer(tmp_path: Path) -> None:
    done = here(tmp_path / "home", "teacher", str(write(tmp_path, "http://127.0.0.1:9/v1")))
    assert done.returncode == 3 and "127.0.0.1:9" in done.stderr
    with serving() as (fake, url):
        fake.behaviour = Behaviour(reply_text="neither of them", logprobs=False)
        done = here(tmp_path / "home", "teacher", str(write(tmp_path, url)), "--rows", "6", "--pilot", "2")
    assert (
        done.returncode == 3 and "no model labelled a known row: chat labelled no row: it named no label" in done.stderr
    )


def test_ctrl_c_loses_no_call(tmp_path: Path) -> None:
    with serving() as (fake, url):
        recipe, home = write(tmp_path, url), tmp_path / "home"
        fake.behaviour = replace(fake.behaviour, median_ms=150, latency="constant")
        words = [sys.executable, "-m", "graft", "teacher", str(recipe), "--rows", "20", "--pilot", "4"]
        command = subprocess.Popen(
            words, cwd=ROOT, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        until = time.monotonic() + 60
        while fake.statuses[200] < 30 and time.monotonic() < until:
            time.sleep(0.05)
        command.send_signal(signal.SIGINT)
        errors = command.communicate(timeout=30)[1].decode()
        assert command.returncode == 130 and "run the same command to continue" in errors
        assert not list(home.glob("**/pilot")) and not list((home / "teacher").glob("*"))
        fake.behaviour = replace(fake.behaviour, median_ms=0)
        ask(home, recipe, "--rows", "20", "--pilot", "4")
        assert not fake.stats()["duplicates"], "finished calls are in the journal"


GAINS = st.builds(
    lambda way, policy, rows, gain, half, guess: Gain(
        way=way, policy=policy if way in ("generate", "both") else None, rows=rows, accuracy=0.5, gain=gain,
        low=gain - half, high=gain + half, extrapolated=guess and way == "hand",
    ),
    st.sampled_from(["generate", "label", "both", "hand"]), st.sampled_from(["intended", "relabelled", "agreeing"]),
    st.integers(1, 200), st.floats(-0.5, 0.5), st.floats(0.001, 0.4), st.booleans(),
)  # fmt: skip


@given_(st.lists(GAINS, max_size=8))
def test_rules_of_the_verdict(gains: list[Gain]) -> None:
    advice, by = decide(gains)
    assert decide(gains[::-1]) == (advice, by) or len({(g.low, g.gain, g.rows, g.policy) for g in gains}) < len(gains)
    helpful = [one for one in gains if one.chance >= LIKELY and not one.extrapolated]
    models = [one for one in helpful if one.way != "hand"]
    if by is None:
        assert advice == "rethink" and not models, "nothing is advised only if no way is likely to gain"
        assert not any(one.way == "hand" and one.rows <= BY_HAND and one.gain >= MARGIN for one in helpful)
        return
    assert advice == by.way and by in helpful
    assert (by.policy is not None) == (advice in ("generate", "both"))
    if advice == "hand":
        alone = [one for one in models if one.way != "both"] or models
        best = max(alone, key=lambda one: (one.low, one.gain), default=None)
        assert by.rows <= BY_HAND and (best is None or by.gain >= best.gain + MARGIN or len(alone) < len(models))
    if advice in ("generate", "label"):
        alone = [one for one in models if one.way in ("generate", "label")]
        assert by.low == max(one.low for one in alone)
