"""Preference formats: pairs of answers, single answers with a verdict, and answers in judged steps.

A wrong answer is an answer to the same instruction that the reviewers of the run rejected for its content, with a
`correctness` below both tau and that of the accepted answer: the rule of students/instruct/data.py, here in SQL.
"""

from __future__ import annotations

from graft.data.export.formats.base import Columns, Format, Params, Source, turn
from graft.schemas.decisions import negative_codes
from graft.schemas.errors import GraftError

CORRECTNESS = """list_avg(list_transform(list_filter({}.reviews, lambda r: r.stage = 'content'),
    lambda r: TRY_CAST(json_extract_string(r.scores, '$.correctness') AS DOUBLE)))"""
STEPS = """TRY_CAST(CASE WHEN json_valid(response) THEN json_extract(response, '$.steps') END
    AS STRUCT("text" VARCHAR, correct BOOLEAN)[])"""
HAS_STEPS = f"len({STEPS}) > 0 AND len(list_filter({STEPS}, lambda s: s.text IS NULL OR s.correct IS NULL)) = 0"


def _wrong(source: Source, params: Params, chosen: str) -> str:
    """SQL of one row per wrong answer beside a chosen answer, in the column `wrong`, without repeated texts."""
    hidden = "" if source.restricted else "AND NOT bad.restricted"
    codes = params.add(list(negative_codes()))
    return f"""
        SELECT chosen.*, bad.response AS wrong, min(bad.candidate_id) AS part FROM {chosen}
        JOIN lake.candidates AS good ON good.run_id = chosen.run_id AND good.candidate_id = chosen.candidate_id
            AND good.status = 'accepted' AND good.slot_group <> '' AND good.text = chosen.text
        JOIN lake.candidates AS bad ON bad.run_id = good.run_id AND bad.slot_group = good.slot_group
            AND list_contains({codes}::VARCHAR[], bad.code) AND bad.response <> '' {hidden}
            AND bad.response <> good.response AND bad.response <> chosen.response
        WHERE chosen.candidate_id <> ''
            AND {CORRECTNESS.format("bad")} < least({params.add(source.tau)}, {CORRECTNESS.format("good")})
        GROUP BY ALL"""


def _pairs(source: Source, params: Params, chosen: str) -> str:
    return f"({_wrong(source, params, chosen)}) AS chosen"


def _verdicts(source: Source, params: Params, chosen: str) -> str:
    """SQL of each row with its answer (true), then its wrong answers (false)."""
    return f"""(WITH chosen AS MATERIALIZED (SELECT * FROM {chosen}),
        wrong AS ({_wrong(source, params, "chosen")})
        SELECT ordinal, text, response AS answer, true AS good, '' AS part FROM chosen WHERE response <> ''
        UNION ALL SELECT ordinal, text, wrong, false, part FROM wrong) AS chosen"""


def _preference(source: Source, params: Params) -> Columns:
    if source.plain:
        return {"prompt": "text", "chosen": "response", "rejected": "wrong"}
    return {
        "prompt": turn("user", "text"),
        "chosen": turn("assistant", "response"),
        "rejected": turn("assistant", "wrong"),
    }


def _unpaired(source: Source, params: Params) -> Columns:
    if source.plain:
        return {"prompt": "text", "completion": "answer", "label": "good"}
    return {"prompt": turn("user", "text"), "completion": turn("assistant", "answer"), "label": "good"}


def _with_steps(source: Source, params: Params, chosen: str) -> str:
    return f"(SELECT * FROM {chosen} WHERE {HAS_STEPS}) AS chosen"


def _stepwise(source: Source, params: Params) -> Columns:
    return {
        "prompt": "text",
        "completions": f"list_transform({STEPS}, lambda s: s.text)",
        "labels": f"list_transform({STEPS}, lambda s: s.correct)",
    }


def _of_answers(source: Source) -> None:
    if source.task.labelled or not source.has_response:
        what = f"its rows are for {source.task.kind}, which has no better and worse answers to an instruction"
        raise GraftError(what, where=source.found.ref, fix="--format messages, or a version of an instruction task")


def _has_pairs(source: Source) -> None:
    _of_answers(source)
    if not _any(source, _pairs):
        what = f"no instruction has both an accepted and a wrong answer (correctness below {source.tau:g})"
        fix = "use a run with method.responses above 1 and reviewers that return scores; or --format messages"
        raise GraftError(what, where=source.found.ref, fix=fix)


def _has_steps(source: Source) -> None:
    if not source.has_response or not _any(source, _with_steps):
        what = "no row has steps: each needs a response of JSON such as"
        example = '{"steps": [{"text": "2 + 2 = 4", "correct": true}]}'
        fix = "import rows with such responses; Graft's own methods judge whole answers. For those: --format preference"
        raise GraftError(f"{what} {example}", where=source.found.ref, fix=fix)


def _any(source: Source, rows: object) -> bool:
    assert callable(rows)
    for split in source.found.splits:
        params = Params()
        query = f"SELECT 1 FROM {rows(source, params, source.chosen(params, split))} LIMIT 1"
        if source.lake.sql(query, params.values).num_rows:
            return True
    return False


BY_PART = "ordinal, part"
KINDS = (
    Format("preference", "`prompt`, `chosen`, `rejected`: TRL's DPO", "jsonl", _preference,
           rows=_pairs, order=BY_PART, check=_has_pairs,
           notes=("A pair is an accepted answer and an answer that reviewers found wrong, to one instruction.",)),
    Format("unpaired_preference", "`prompt`, `completion`, `label`: TRL's KTO", "jsonl",
           _unpaired, rows=_verdicts, order=BY_PART, check=_of_answers),
    Format("stepwise", "`prompt`, `completions`, `labels`: TRL's PRM",
           "jsonl", _stepwise, rows=_with_steps, check=_has_steps,
           notes=("Rows without steps are left out.",)),
)  # fmt: skip
