"""Prices in words, and which models cost none: the same answer in Python and in SQL."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from graft.data.lake import Lake
from graft.data.quality.judged import LOCAL
from graft.schemas.datasets import Run
from graft.schemas.home import Home
from graft.schemas.money import all_local, is_local, money
from graft.schemas.sections import Column, Fact

MODELS: dict[str, tuple[dict[str, Any], bool]] = {
    "embedded": ({"provider": "embedded"}, True),
    "encoder": ({"provider": "encoder"}, True),
    "loopback": ({"provider": "openai", "base_url": "http://127.0.0.1:8000/v1"}, True),
    "by-name": ({"provider": "openai", "base_url": "http://localhost:11434/v1"}, True),
    "version-six": ({"provider": "openai", "base_url": "http://[::1]:8000/v1"}, True),
    "free": ({"provider": "openai", "base_url": "http://127.0.0.1:1/v1", "price": {"input": 0, "output": 0}}, True),
    "paid": ({"provider": "openai", "base_url": "http://127.0.0.1:1/v1", "price": {"input": 1, "output": 0}}, False),
    "elsewhere": ({"provider": "openai", "base_url": "http://models.example:8000/v1"}, False),
    "disguised": ({"provider": "openai", "base_url": "http://127.0.0.1.example/v1"}, False),
    "hosted": ({"provider": "litellm", "price": {"input": 0, "output": 0}}, False),
}


@pytest.mark.parametrize(
    ("price", "local", "least", "words"),
    [
        (0.0, True, None, "local"), (None, True, None, "local"), (0.5, True, None, "$0.50"),
        (0.0, False, None, "$0"), (None, False, None, "unknown"), (None, False, 0.0, "unknown"),
        (None, False, 1.25, "at least $1.25"), (0.0000124, False, None, "$0.000012"),
        (1234.5, False, None, "$1,234.50"),
    ],
)  # fmt: skip
def test_a_price_has_one_wording(price: float | None, local: bool, least: float | None, words: str) -> None:
    assert money(price, local, least) == words
    assert Fact("price", price, "money", local=local, least=least).text == words
    assert Column("price_usd", "price", "money").text({"price_usd": price, "local": local, "least_usd": least}) == words


def test_python_and_sql_agree_on_which_models_are_local(tmp_path: Path) -> None:
    recipe = {"models": [{"name": name, **fields} for name, (fields, _) in MODELS.items()]}
    with Lake.open(Home(tmp_path)) as lake:
        lake.save_run(Run(id="r", dataset="d", recipe=recipe, status="finished", started_at=datetime.now(UTC),
                         code_version="1"))  # fmt: skip
        for name, (fields, expected) in MODELS.items():
            [found] = lake.query(
                f"SELECT {LOCAL} AS local FROM (SELECT ? AS run_id, ? AS model, ? AS provider)",
                ["r", name, fields["provider"]],
            )
            assert found["local"] == is_local(fields) == expected, name


def test_a_run_is_local_if_all_its_models_are() -> None:
    here, hosted = {"provider": "embedded"}, {"provider": "litellm"}
    assert all_local({"models": [here]})
    assert not all_local({"models": [here, hosted]}) and not all_local({"models": []}) and not all_local({})
