"""What is learned from good and wrong answers: pairs, single answers with a verdict, and answers in judged steps.

A wrong answer is one that reviewers of the same run rejected beside the accepted one, for its content and with a lower
`correctness` than both tau and the accepted one's: the rule of students/instruct/data.py, here in SQL.
"""

from __future__ import annotations

from graft.data.export.chat import turn
from graft.data.export.registry import Columns, Format, Params, Source
from graft.schemas.decisions import negative_codes
from graft.schemas.errors import GraftError

CORRECTNESS = """list_avg(list_transform(list_filter({}.reviews, lambda r: r.stage = 'content'),
    lambda r: TRY_CAST(json_extract_string(r.scores, '$.correctness') AS DOUBLE)))"""
STEPS = """TRY_CAST(CASE WHEN json_valid(response) THEN json_extract(response, '$.steps') END
    AS STRUCT("text" VARCHAR, correct BOOLEAN)[])"""
HAS_STEPS = f"len({STEPS}) > 0 AND len(list_filter({STEPS}, lambda s: s.text IS NULL OR s.correct IS NULL)) = 0"


def _wrong(source: Source, params: Params, chosen: str) -> str:
    """A row for each wrong answer beside a chosen one, with `wrong`, each text once, in the order of their ids."""
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
    """Each row with its answer, true, then its wrong answers, false."""
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
        what = f"its rows are for {source.task.kind}: there is no better and worse answer to one instruction"
        raise GraftError(what, where=source.found.ref, fix="--format messages, or a version of an instruction task")


def _has_pairs(source: Source) -> None:
    _of_answers(source)
    if not _any(source, _pairs):
        what = f"no rejected answer beside an accepted one is wrong (correctness below {source.tau:g})"
        fix = "a run with method.responses above 1 and reviewers that give scores; or --format messages"
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
FORMATS = (
    Format("preference", "training", "`prompt`, `chosen`, `rejected`: TRL's DPO", "jsonl", _preference,
           rows=_pairs, order=BY_PART, check=_has_pairs,
           notes=("A pair is an accepted answer and one that reviewers found wrong, to the same instruction.",)),
    Format("unpaired_preference", "training", "`prompt`, `completion`, `label`: TRL's KTO", "jsonl",
           _unpaired, rows=_verdicts, order=BY_PART, check=_of_answers),
    Format("stepwise", "training", "`prompt`, `completions`, `labels`: TRL's PRM",
           "jsonl", _stepwise, rows=_with_steps, check=_has_steps,
           notes=("Rows without steps are left out.",)),
)  # fmt: skip
