"""YAML of strangers: it is read in time and memory that follow from its size, or refused with its line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from graft.cli.ops import read_overrides
from graft.data.intake import sources
from graft.schemas.errors import InputInvalid
from graft.schemas.load import load_recipe
from graft.schemas.plain_yaml import MAX_BYTES, plain

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 60))
SIXTY = ":".join(["59"] * 60_000)


@pytest.mark.parametrize("text", [LAUGHS, MERGES, "a: &a [*a]", "a: &a {<<: *a}", "a: &a {b: *a}"])
def test_aliases_and_merges_do_not_grow_without_end(tmp_path: Path, text: str) -> None:
    with pytest.raises(yaml.YAMLError, match="without end"):
        plain(text)
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(InputInvalid, match=r"without end|nested too deeply|no plain|Field required|unknown field"):
        load_recipe(file)


@pytest.mark.parametrize("number", [SIXTY, SIXTY + ".5", "0x" + "f" * 400_000, "1" * 100_000, "1_" * 50_000 + "0"])
def test_a_huge_number_is_text_and_costs_nothing(tmp_path: Path, number: str) -> None:
    began = time.process_time()
    assert plain(f"x: {number}") == {"x": number}
    file = tmp_path / "recipe.yaml"
    file.write_text(f"name: shop\nseed: {number}\n")
    with pytest.raises(InputInvalid, match="seed"):
        load_recipe(file)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("tag", ["!!int", "!!float"])
def test_a_tag_cannot_ask_for_a_huge_number(tag: str) -> None:
    began = time.process_time()
    with pytest.raises(yaml.YAMLError, match="is no plain number"):
        plain(f"x: {tag} {SIXTY}")
    assert time.process_time() - began < 5


@pytest.mark.parametrize("text", ["[" * 5_000, "- " * 5_000, "{a: " * 5_000])
def test_deep_nesting_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match="nested too deeply"):
        plain(text)


def test_a_text_that_is_too_large_is_refused() -> None:
    with pytest.raises(yaml.YAMLError, match="more than 5,000,000 characters"):
        plain("#" * (MAX_BYTES + 1))


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system [echo]", "!!python/name:os.system"])
def test_no_tag_makes_an_object(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match="could not determine a constructor"):
        plain(text)


def test_plain_values_are_what_they_were() -> None:
    text = "[1, -2, 1_000, 0x1f, 0b11, 1.5, .5, 1.0e+5, .inf, yes, null, ~, 2020-01-02, a b, '1', 12:30, 1:2.5]"
    *same, clock, other = plain(text)
    assert same == yaml.safe_load(text)[:-2]
    assert (clock, other) == ("12:30", "1:2.5")
    merged = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {<<: [*a, *b], x: 5}\nd: {<<: *b, =: 1}"
    assert plain(merged)["c"] == yaml.safe_load(merged)["c"] == {"x": 5, "y": 2, "z": 4}
    assert plain(merged)["d"] == {"y": 3, "z": 4, "=": 1}
    assert plain("") is None


def test_an_override_and_a_dataset_card_are_read_the_same_way(tmp_path: Path) -> None:
    assert read_overrides(["rows=50", "start=12:30"]) == {"rows": 50, "start": "12:30"}
    (tmp_path / "train.csv").write_text("text,label\none two,a\n")
    (tmp_path / "README.md").write_text(f"---\n{LAUGHS}license: [*a59]\n---\n")
    with pytest.raises(InputInvalid, match="aliases repeat values without end"):
        sources.find(str(tmp_path))
