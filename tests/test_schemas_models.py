"""A recipe's models hold no key and none of the fields that Graft itself sends, whatever they are called."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from graft.schemas.addresses import normal_url
from graft.schemas.base import stable_hash
from graft.schemas.calls import CallRequest
from graft.schemas.datasets import Run
from graft.schemas.errors import InputInvalid
from graft.schemas.extra import _SETTINGS, sendable
from graft.schemas.kinds import GATES
from graft.schemas.load import load_recipe
from graft.schemas.models import ModelSpec
from graft.schemas.recipe import Recipe

CANARY = "sk-canary7f3a9c21d4e8b6f0aa"
NAMES = sorted(name for names in _SETTINGS.values() for name in names.split())
SEEDS = {"rows": [{"text": "open?", "label": "a"}, {"text": "closed?", "label": "b"}]}
TASK = {"kind": "classification", "labels": [{"name": "a"}, {"name": "b"}]}


def model(**more: Any) -> ModelSpec:
    return ModelSpec(**{"name": "m", "provider": "openai", "model": "x", "base_url": "http://127.0.0.1:1/v1", **more})


def recipe_of(**more: Any) -> dict[str, Any]:
    spec = {"name": "m", "provider": "openai", "model": "x", "base_url": "http://127.0.0.1:1/v1", **more}
    return {"name": "shop", "task": TASK, "seeds": SEEDS, "models": [spec]}


def problems_of(folder: Path, **more: Any) -> InputInvalid:
    file = folder / "shop.yaml"
    file.write_text(yaml.safe_dump(recipe_of(**more)), encoding="utf-8")
    with pytest.raises(InputInvalid) as caught:
        load_recipe(file)
    return caught.value


@pytest.mark.parametrize(
    ("extra", "field", "setting"),
    [
        ({"max_tokens": 9000}, "models.0.extra.max_tokens", "roles.generator.max_tokens"),
        ({"extra_body": {"Max-Completion-Tokens": 9}}, "models.0.extra.extra_body.Max-Completion-Tokens", "max_tokens"),
        ({"options": {"num_predict": 9}}, "models.0.extra.options.num_predict", "roles.generator.max_tokens"),
        ({"generationConfig": {"maxOutputTokens": 9}}, "models.0.extra.generationConfig.maxOutputTokens", "max_tokens"),
        ({"n": 8}, "models.0.extra.n", "one reply"),
        ({"model": "gpt-dear"}, "models.0.extra.model", "models[].model"),
        ({"messages": []}, "models.0.extra.messages", "prompt"),
        ({"stream": True}, "models.0.extra.stream", "whole replies"),
        ({"api_base": "http://x"}, "models.0.extra.api_base", "models[].base_url"),
        ({"input_cost_per_token": 0}, "models.0.extra.input_cost_per_token", "models[].price"),
        ({"additional_drop_params": ["max_tokens"]}, "models.0.extra.additional_drop_params", "remove it"),
        ({"service_tier": "priority"}, "models.0.extra.service_tier", "price"),
        ({"extra_headers": {"X-Key": "abc"}}, "models.0.extra.extra_headers", "headers_env"),
        ({"a": [{"apiKey": "abc"}]}, "models.0.extra.a.0.apiKey", "api_key_env"),
        ({"auth": "abc"}, "models.0.extra.auth", "api_key_env"),
        ({"safe_looking": CANARY}, "models.0.extra.safe_looking", "api_key_env"),
    ],
)
def test_a_field_that_is_not_the_recipes_is_named_with_the_setting_that_does_it(
    tmp_path: Path, extra: dict[str, Any], field: str, setting: str
) -> None:
    (problem,) = problems_of(tmp_path, extra=extra).problems
    assert problem.field == field and setting in problem.fix


def test_all_wrong_fields_of_a_model_are_reported_at_once(tmp_path: Path) -> None:
    wrong = problems_of(tmp_path, extra={"n": 2, "stream": True}, base_url="http://h/v1?key=1", api_key_env=CANARY)
    assert {problem.field for problem in wrong.problems} == {
        "models.0.extra.n", "models.0.extra.stream", "models.0.base_url", "models.0.api_key_env"
    }  # fmt: skip


@given(st.sampled_from(NAMES), st.randoms(), st.lists(st.sampled_from(["extra_body", "options", 0]), max_size=4))
def test_no_spelling_and_no_depth_hides_a_field_of_grafts(
    name: str, chance: random.Random, around: list[str | int]
) -> None:
    spelt = "".join(
        chance.choice("_- .") if letter == "_" else chance.choice((letter, letter.upper())) for letter in name
    )
    value: Any = {spelt: 1}
    for step in around:
        value = [value] if step == 0 else {str(step): value}
    extra = {"extra_body": value} if isinstance(value, list) else value
    with pytest.raises(ValidationError, match="field that Graft itself sets"):
        model(extra=extra)
    assert "1" not in str(sendable(extra))


def test_fields_that_servers_take_beside_those_of_graft_are_free() -> None:
    free = {
        "top_k": 3, "min_p": 0.1, "repetition_penalty": 1.1, "frequency_penalty": 0.2, "logit_bias": {"50256": -100},
        "min_tokens": 1, "ignore_eos": False, "skip_special_tokens": True, "stop_token_ids": [1], "cache_prompt": False,
        "chat_template_kwargs": {"enable_thinking": False, "eos_token": "</s>"}, "reasoning_effort": "low",
        "thinking": {"type": "enabled", "budget_tokens": 100}, "extra_body": {"top_k": 3}, "options": {"num_ctx": 4096},
        "provider": {"order": ["a"], "max_price": {"prompt": 1}}, "api_version": "2026-01-01", "user": "u1",
        "prompt_cache_key": "graft", "safety_settings": [{"category": "x", "threshold": "y"}], "verbosity": "low",
    }  # fmt: skip
    assert model(extra=free).extra == free == sendable(free)
    priced = model(extra={"service_tier": "flex"}, price={"input": 1, "output": 1})
    assert priced.extra == {"service_tier": "flex"}


@pytest.mark.parametrize("value", [2**70, "\ud800", float("nan")])
def test_what_json_cannot_hold_is_refused_when_the_recipe_is_loaded(value: Any) -> None:
    with pytest.raises(ValidationError, match="extra"):
        model(extra={"top_k": value})


PLACES: dict[str, dict[str, Any]] = {
    "a field": {"extra": {"api_key": CANARY}}, "a nested field": {"extra": {"a": {"b": [{"password": CANARY}]}}},
    "a header": {"extra": {"extra_headers": {"Authorization": f"Bearer {CANARY}"}}}, "a name": {"extra": {CANARY: 1}},
    "a text": {"extra": {"note": f"use {CANARY}"}}, "a password": {"base_url": f"http://me:{CANARY}@127.0.0.1:1/v1"},
    "a user": {"base_url": f"http://{CANARY}@127.0.0.1:1/v1"}, "a query": {"base_url": f"http://h/v1?k={CANARY}"},
    "a fragment": {"base_url": f"http://h/v1#{CANARY}"}, "a path": {"base_url": f"http://h/{CANARY}/v1"},
    "the variable": {"api_key_env": CANARY}, "a header's variable": {"headers_env": {"X-Key": CANARY}},
    "the id": {"model": CANARY}, "the revision": {"revision": CANARY}, "the licence": {"licence": CANARY},
    "a number": {"timeout_s": CANARY}, "an unknown field": {"key": CANARY},
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_key_in_a_model_is_refused_and_never_repeated(tmp_path: Path, place: str) -> None:
    assert CANARY not in str(problems_of(tmp_path, **PLACES[place]))
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(recipe_of(**PLACES[place]))
    assert CANARY not in str(caught.value)
    with pytest.raises(ValidationError) as caught:
        ModelSpec.model_validate(recipe_of(**PLACES[place])["models"][0])
    assert CANARY not in str(caught.value)


def test_headers_come_from_the_environment() -> None:
    assert model(headers_env={"X-Api-Key": "SHOP_KEY"}, api_key_env="K").key_variables == ("K", "SHOP_KEY")
    for wrong in ({"Host": "H"}, {"X Y": "H"}, {"X": "not a name"}):
        with pytest.raises(ValidationError):
            model(headers_env=wrong)
    with pytest.raises(ValidationError, match="Authorization already"):
        model(headers_env={"authorization": "A"}, api_key_env="B")


@pytest.mark.parametrize(
    ("written", "same"),
    [
        ("http://h/v1/", "http://h/v1"), ("HTTP://H/v1", "http://h/v1"), ("http://h:80/v1", "http://h/v1"),
        ("https://H:443/v1/", "https://h/v1"), ("http://h/a/../v1/./", "http://h/v1"), ("http://h/%7ea", "http://h/%7Ea"),
        ("http://[::1]:8000/v1/", "http://[::1]:8000/v1"), ("http://h:8080", "http://h:8080"),
        ("http://h/../../v1", "http://h/v1"), ("http://h/V1", "http://h/V1"),
    ],
)  # fmt: skip
def test_an_address_has_one_spelling(written: str, same: str) -> None:
    assert model(base_url=written).base_url == same
    request = CallRequest(model=model(base_url=same), role="generator", purpose="p", prompt="x")
    other = request.model.model_copy(update={"base_url": written})
    assert request.model_copy(update={"model": other}).key() == request.key()


@given(st.text(alphabet="ahtp:/.?#@%[]01 \\", max_size=30))
def test_any_text_has_a_normal_form_that_stays(text: str) -> None:
    assert normal_url(normal_url(text)) == normal_url(text)


@pytest.mark.parametrize("wrong", ["ftp://h/v1", "h/v1", "http://", "http://h:x/v1", "http://[::1/v1", "http://h /v1"])
def test_what_is_no_address_is_refused(wrong: str) -> None:
    with pytest.raises(ValidationError, match="address"):
        model(base_url=wrong)


def test_the_key_of_a_hosted_model_is_that_of_earlier_grafts_so_that_its_journal_still_answers() -> None:
    request = CallRequest(model=model(), role="generator", purpose="p", prompt="x")
    assert request.key() == "141728ed4d8f2c8a266f850a407a57e0"


def test_fields_that_a_recipe_does_not_set_leave_the_runs_id_as_it_was() -> None:
    recipe = Recipe.model_validate(recipe_of())
    data = recipe.model_dump(mode="json", exclude={"student", "improve", "description", "review", "steering", "select"})
    for name in ("weights", "headers_env", "context"):
        del data["models"][0][name]
    on = [gate for gate in GATES.all().values() if gate.scope != "version" and gate.enabled(recipe)]
    data["gates"] = {name: data["gates"][name] for gate in on for name in gate.Settings.model_fields}
    assert recipe.fingerprint("more") == stable_hash(data, recipe.task.rubric, ["more"])
    headed = Recipe.model_validate(recipe_of(headers_env={"X-Key": "K"}))
    assert headed.fingerprint() != recipe.fingerprint()


EARLIER = {
    "extra": {"api_key": CANARY, "max_tokens": 9, "top_k": 3, "deep": {"extra_headers": {"Authorization": CANARY}}},
    "base_url": f"http://me:{CANARY}@127.0.0.1:1/v1/?key={CANARY}",
}


def test_a_stored_recipe_holds_no_key_and_one_of_an_earlier_graft_is_still_read() -> None:
    data = {**recipe_of(**EARLIER), "description": f"with {CANARY}", "licence": f"CC0 {CANARY}"}
    data["task"] = {**TASK, "text": f"a text, api_key={CANARY}"}
    run = Run(id="r", dataset="shop", recipe=data, status="finished", started_at="2026-11-01T00:00:00Z",
              code_version="1")  # fmt: skip
    assert CANARY not in run.model_dump_json()
    for kept in (run.recipe, data):
        spec = Recipe.stored(kept).models[0]
        assert (spec.extra, spec.base_url) == ({"top_k": 3, "deep": {}}, "http://127.0.0.1:1/v1")


def test_the_value_of_a_named_variable_is_taken_out_of_a_stored_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_WORD", "a-plain-word-77")
    data = {
        **recipe_of(headers_env={"X-Key": "SHOP_WORD"}, revision="a-plain-word-77"),
        "description": "a-plain-word-77",
    }
    run = Run(id="r", dataset="shop", recipe=data, status="finished", started_at="2026-11-01T00:00:00Z",
              code_version="1")  # fmt: skip
    assert "a-plain-word-77" not in run.model_dump_json()
    assert run.recipe["name"] == "shop" and run.recipe["seeds"] == SEEDS


def test_a_sound_recipe_is_stored_as_it_is() -> None:
    for name in ("demo", "hosted", "instructions", "promptmix"):
        file = Path(__file__).resolve().parents[1] / "recipes" / f"{name}.yaml"
        data = load_recipe(file).model_dump(mode="json")
        run = Run(id="r", dataset="d", recipe=data, status="finished", started_at="2026-11-01T00:00:00Z",
                  code_version="1")  # fmt: skip
        assert run.recipe == data and Recipe.stored(data) == load_recipe(file)


def test_an_empty_extra_is_sound() -> None:
    spec = ModelSpec(name="m", provider="openai", model="x", base_url="http://127.0.0.1:9/v1", extra={})
    assert spec.extra == {}
