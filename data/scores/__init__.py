"""Analysis of evaluated students: stored answers, reliability, slices, paired tests, leaderboard."""

from __future__ import annotations

from graft.data.scores.answers import Answers, Reliability, Speed, answers, not_kept, reliability, speed
from graft.data.scores.board import (
    BRIEF,
    AgainstTeacher,
    Curve,
    CurvePoint,
    Standing,
    against_teacher,
    board_tables,
    leaderboard,
    learning_curve,
)
from graft.data.scores.pairs import Paired, compare, find_student, gain_of, paired, shared_tests
from graft.data.scores.slices import RowFacts, SliceScore, row_facts, worst_slices

__all__ = [
    "BRIEF", "AgainstTeacher", "Answers", "Curve", "CurvePoint", "Paired", "Reliability", "RowFacts", "SliceScore",
    "Speed", "Standing", "against_teacher", "answers", "board_tables", "compare", "find_student", "gain_of",
    "leaderboard", "learning_curve", "not_kept", "paired", "reliability", "row_facts", "shared_tests", "speed",
    "worst_slices",
]  # fmt: skip
