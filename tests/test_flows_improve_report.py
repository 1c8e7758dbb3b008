"""Advice of a loop's report, from figures made by hand."""

from __future__ import annotations

from graft.data.card import section_markdown
from graft.flows.improve_report import best_round, summary
from graft.schemas.base import utc_now
from graft.schemas.steering import Improvement, ImproveSettings, RoundResult


def loop(*rounds: RoundResult) -> Improvement:
    return Improvement(
        id="im_1", dataset="desk", recipe_file="desk.yaml", settings=ImproveSettings(), test_file="held.jsonl",
        rounds=rounds, stopped_by="seed 1: rounds", created_at=utc_now(),
    )  # fmt: skip


def told(improvement: Improvement) -> str:
    return "\n".join(summary(improvement).notes)


def made(number: int, test: float, steering: float | None = None, seed: int = 1, arm: str = "steered") -> RoundResult:
    return RoundResult.model_validate(
        {"arm": arm, "seed": seed, "round": number, "dataset": f"desk-{arm}", "version": number or None,
         "student_id": f"st_{number}", "rows": 10 * number, "test": test, "steering": steering, "price_usd": None}
    )  # fmt: skip


def test_the_round_to_keep_is_chosen_by_what_steers_and_never_by_the_test() -> None:
    rounds = (made(0, 0.5), made(1, 0.9, 0.6), made(2, 0.7, 0.8), made(3, 0.6, 0.8))
    kept = best_round(rounds)
    assert kept is not None and kept.round == 3
    text = told(loop(*rounds))
    assert "keep desk-steered@3 and st_3" in text and "over the seeds alone: +10.0 points" in text
    assert "overfits what steers it" in text, "steering rose by 20 points while the test fell by 30"
    table = section_markdown(summary(loop(*rounds))).splitlines()
    assert next(line for line in table if "| round 2 |" in line).startswith("| round 2 | 20 | 0 | 0 | 0 | unknown |")


def test_rows_that_do_not_help_are_called_so() -> None:
    assert "these rows do not help" in told(loop(made(0, 0.8), made(1, 0.7, 0.9)))
    assert "these rows do not help" not in told(loop(made(0, 0.7), made(1, 0.8, 0.9)))


def test_several_seeds_are_reported_with_their_spread() -> None:
    rounds = [
        one
        for seed, gain in ((1, 0.1), (2, 0.2), (3, 0.3))
        for one in (
            made(0, 0.5, seed=seed), made(1, 0.5 + gain, 0.9, seed=seed), made(1, 0.55, seed=seed, arm="unsteered")
        )
    ]  # fmt: skip
    text = told(loop(*rounds))
    assert "over the seeds alone: +20.0 points (+10.0 to +30.0 over 3 seeds)" in text
    assert "at once, unsteered: +15.0 points (+5.0 to +25.0 over 3 seeds)" in text
    assert "may be chance" not in text
