"""Decision codes: one table for sentences, advice and preference pairs, which plugins can add to."""

from __future__ import annotations

import pytest

from graft.flows.feasibility import early_line, standing_out
from graft.schemas import decisions
from graft.schemas.decisions import DecisionCode, codes_of, decision_code, declare, negative_codes
from graft.schemas.kinds import METHODS, STEPS


def test_wrong_answers_are_those_that_reviewers_rejected_for_their_content() -> None:
    METHODS.all(), STEPS.all()  # each declares its codes
    of_pipelines = {"rejected.equals", "rejected.number_equal"}
    assert set(negative_codes()) == {"rejected.low_mean", "rejected.adjudicated", *of_pipelines}
    assert not decision_code("rejected.not_best").negative and not decision_code("gate.too_long").negative


def test_a_code_that_nobody_declared_is_shown_in_words() -> None:
    assert decision_code("gate.too_short").sentence == "a gate refused it: too short"
    assert decision_code("failed.odd_reply").sentence == "a model call failed: odd reply"
    assert decision_code("unsure").sentence == "unsure"


def test_a_plugins_code_gets_its_advice_where_it_stands_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "_CODES", dict(decisions._CODES))
    dull = DecisionCode("failed.dull", "call", "the reply was dull", "unreadable", "were dull: raise temperature")
    declare(dull)
    declare(dull)  # a module that is loaded twice declares the same
    assert "failed.dull" in codes_of("unreadable") and "2 unreadable (dull 2)" in early_line(
        9, 1, {"failed.dull": 2}, ""
    )
    assert standing_out(20, {"failed.dull": 6}) == "6 of 20 candidates were dull: raise temperature"
    with pytest.raises(ValueError, match=r"failed\.dull"):
        declare(DecisionCode("failed.dull", "call", "another meaning"))


def test_codes_with_one_advice_are_counted_together() -> None:
    result = standing_out(20, {"failed.timeout": 3, "failed.connection": 3})
    assert result.startswith("6 of 20 candidates got no answer from the server")
