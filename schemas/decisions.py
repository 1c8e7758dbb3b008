"""Decision codes: how a candidate can end, and for each code its stage, its sentence and advice.

A method or gate of a plugin adds its own codes with `declare`. A code that nobody declared still works: its sentence is
the code in words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Stage = Literal["writing", "labelling", "review", "gate", "choice", "call"]
"""The step that decided: writing a text, labelling it, reviewing it, a gate, the choice among several accepted rows, or
a model call that gave no usable reply."""
Cause = Literal["", "unreadable", "refused", "unanswered", "duplicate"]
"""The common cause of several codes: unusable replies, refusals by a model, no answer from a server, repeated texts."""

OUT_OF_BUDGET = "failed.budget"
"""The code of a candidate whose next call would have exceeded a cap."""
CUT = "rejected.cut"
NOT_BEST = "rejected.not_best"
NOT_CHOSEN = "rejected.not_chosen"
UNSURE = "rejected.unsure"
SEMANTIC = "gate.semantic"
ACROSS_SHARDS = "gate.across_shards"


@dataclass(frozen=True)
class DecisionCode:
    """One way for a candidate to end.

    Args:
        code: `accepted.x`, `rejected.x`, `failed.x`, or `gate.RULE` for a gate's rule
        sentence: the reason in a clause, such as "the reviewers agreed that it fits"
        cause: the cause that it shares with other codes
        advice: follows "N of M candidates": what happened, a colon, what to do; shown if many candidates ended so
        negative: whether a response that ended so is a wrong answer, for preference pairs
    """

    code: str
    stage: Stage
    sentence: str
    cause: Cause = ""
    advice: str = ""
    negative: bool = False


_UNSURE = (
    "got no label that is likely enough: describe the labels better, add seeds, name larger judges, or lower "
    "min_probability or min_margin"
)
_REFUSED = "were refused: name another generator, or a base model (style: completion)"
_UNANSWERED = "got no answer from the server: look at its log, or lower limits.concurrency"
_SCHEMA = "raise max_tokens, or name a model that keeps to a JSON schema"
_UNREADABLE = "ended because replies"

_CUT = "were cut off in mid-sentence: raise max_tokens of the role that writes, or ask for shorter texts"

_CODES: dict[str, DecisionCode] = {}


def declare(*codes: DecisionCode) -> None:
    """Add codes to the table. Raises ValueError if a code is known with another meaning."""
    for one in codes:
        if _CODES.setdefault(one.code, one) != one:
            raise ValueError(f"the decision code {one.code!r} is declared twice, with different meanings")


def decision_code(code: str) -> DecisionCode:
    """The entry of a code; for an undeclared one an entry whose sentence is the code in words."""
    if code in _CODES:
        return _CODES[code]
    kind, _, rule = code.partition(".")
    words = rule.replace("_", " ") or code
    if kind == "gate":
        return DecisionCode(code, "gate", f"a gate refused it: {words}")
    if kind == "failed":
        return DecisionCode(code, "call", f"a model call failed: {words}")
    return DecisionCode(code, "review", f"{kind}: {words}" if rule else words)


def codes_of(cause: Cause) -> tuple[str, ...]:
    """The declared codes with that cause."""
    return tuple(one.code for one in _CODES.values() if one.cause == cause)


def negative_codes() -> tuple[str, ...]:
    """Codes of responses that are wrong answers, as preference pairs need them.

    A response that was rejected for its tone, its length or as a duplicate is no wrong answer: teaching a student to
    avoid it would teach the wrong thing.
    """
    return tuple(one.code for one in _CODES.values() if one.negative)


declare(
    DecisionCode("accepted.agreed", "review", "the reviewers agreed that it fits"),
    DecisionCode("accepted.adjudicated", "review", "the reviewers disagreed and the adjudicator accepted it"),
    DecisionCode("accepted.intended", "labelling", "it keeps the label that it was written for, without a judgement"),
    DecisionCode("accepted.labelled", "labelling", "judges that did not know the intended label gave it one"),
    DecisionCode("rejected.low_mean", "review", "the reviewers' mean score was under tau", negative=True),
    DecisionCode(
        "rejected.adjudicated", "review", "the reviewers disagreed and the adjudicator rejected it", negative=True
    ),
    DecisionCode("rejected.flag", "review", "a reviewer called the instruction unreasonable, incomplete or unclear"),
    DecisionCode("rejected.no_label", "labelling", "judges gave it no label of the set"),
    DecisionCode(UNSURE, "labelling", "its label is not likely enough, or hardly leads the next", advice=_UNSURE),
    DecisionCode("rejected.refusal", "writing", "the generator refused to write it", "refused", _REFUSED),
    DecisionCode(CUT, "writing", "its text was cut off at the token limit", advice=_CUT),
    DecisionCode(NOT_BEST, "choice", "another response to the same instruction is better"),
    DecisionCode(NOT_CHOSEN, "choice", "others of its label add more, and the target is reached without it",
                 advice="were made for `select` to choose among: a lower select.oversample makes fewer"),
    DecisionCode("failed.refusal", "call", "a model refused", "refused", _REFUSED),
    DecisionCode("failed.malformed", "call", "the reply held no valid JSON", "unreadable",
                 f"{_UNREADABLE} held no valid JSON: {_SCHEMA}"),
    DecisionCode("failed.empty", "call", "the reply was empty", "unreadable",
                 f"{_UNREADABLE} were empty: raise max_tokens, or look at the model's chat template"),
    DecisionCode("failed.schema_unmet", "call", "the reply broke its schema", "unreadable",
                 f"{_UNREADABLE} broke their schema: {_SCHEMA}"),
    DecisionCode("failed.cut", "call", "the reply was cut off at its token limit", "unreadable",
                 f"{_UNREADABLE} were cut off: raise the role's max_tokens"),
    DecisionCode("failed.few_texts", "writing", "the generator's list held no text for it", "unreadable",
                 f"{_UNREADABLE} held fewer texts than requested: lower method.texts_per_call, or raise max_tokens"),
    DecisionCode("failed.no_label_tokens", "call", "the reply's tokens named no label", "unreadable",
                 f"{_UNREADABLE} named no label among their tokens: set the role's answer to scores (a labeler's: "
                 "name)"),
    DecisionCode("failed.no_logprobs", "call", "the server returned no log-probabilities"),
    DecisionCode("failed.timeout", "call", "the server did not answer in time", "unanswered", _UNANSWERED),
    DecisionCode("failed.server_error", "call", "the server answered with an error", "unanswered", _UNANSWERED),
    DecisionCode("failed.connection", "call", "the server could not be reached", "unanswered", _UNANSWERED),
    DecisionCode("failed.rate_limited", "call", "the server's rate limit was reached", "unanswered", _UNANSWERED),
    DecisionCode("failed.refused_by_server", "call", "the server rejected the request"),
    DecisionCode("failed.cancelled", "call", "the run was stopped before the reply came"),
    DecisionCode("failed.unexpected", "call", "an unexpected error ended the call"),
    DecisionCode(OUT_OF_BUDGET, "call", "a cap of the recipe was reached"),
    DecisionCode("gate.refusal", "gate", "the response is a refusal", "refused", _REFUSED),
    DecisionCode("gate.exact_duplicate", "gate", "it repeats another row", "duplicate"),
    DecisionCode("gate.near_duplicate", "gate", "it nearly repeats another row", "duplicate"),
    DecisionCode(SEMANTIC, "gate", "it means nearly the same as a better row", "duplicate"),
    DecisionCode(ACROSS_SHARDS, "gate", "it is a duplicate of a row from another shard", "duplicate"),
)  # fmt: skip
