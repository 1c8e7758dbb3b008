"""Training data of an instruction student: chat turns, rationales as a second task, and preference pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from graft.schemas.base import stable_hash
from graft.schemas.decisions import decision_code
from graft.schemas.rows import Candidate

REASONING = "Say in one sentence why a good answer to this request is right, without giving the answer.\n\n"
"""Prefix of an instruction that requests the rationale (second task, arXiv 2305.02301)."""

IGNORED = -100
"""Label of a token without loss, as in torch's cross-entropy."""


@dataclass(frozen=True)
class Turn:
    """One instruction with the response to learn. `rationale`: why the response is right, empty if unknown."""

    instruction: str
    response: str
    rationale: str = ""


@dataclass(frozen=True)
class Pair:
    """Two responses to one instruction, of which reviewers accepted one and found the other wrong."""

    instruction: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Encoded:
    """A turn as tokens; labels are IGNORED up to the response."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def learned(self) -> int:
        """Number of tokens with a loss."""
        return sum(label != IGNORED for label in self.labels)


def is_negative(rejected: Candidate, accepted: Candidate, tau: float) -> bool:
    """Return True if a rejected response is a wrong answer beside an accepted one to the same instruction.

    True if its decision's code is negative (schemas.decisions) and the content reviewers' mean `correctness` is below
    `tau` and below the accepted one's. Other codes do not judge the answer: `rejected.flag` is about the instruction,
    `gate.*` about form, duplicates and leaks, `rejected.not_best` about a better response beside a good one.
    """
    group = accepted.slot.group
    if not group or rejected.slot.group != group or not decision_code(rejected.decision.code).negative:
        return False
    if not accepted.accepted or not rejected.response or rejected.response == accepted.response:
        return False
    wrong, right = correctness(rejected), correctness(accepted)
    return wrong is not None and right is not None and wrong < min(tau, right)


def correctness(candidate: Candidate) -> float | None:
    """The content reviewers' mean score for `correctness` (0 to 10); None if none gave one."""
    given = [r.scores["correctness"] for r in candidate.reviews if r.stage == "content" and "correctness" in r.scores]
    return math.fsum(given) / len(given) if given else None


def pairs_of(accepted: Candidate, others: Iterable[Candidate], tau: float) -> list[Pair]:
    """An accepted response against each wrong one of its group, each text once, in the order of their ids."""
    wrong = sorted((one for one in others if is_negative(one, accepted, tau)), key=lambda one: one.id)
    texts = dict.fromkeys(one.response or "" for one in wrong)
    return [Pair(accepted.text, accepted.response or "", text) for text in texts]


def rationale_of(accepted: Candidate, tau: float) -> str:
    """Rationale of an accepted response: the comment of the content reviewer who scored it highest.

    Only a reviewer whose own score would have accepted it counts. The comment judges the response and is no derivation
    of it: GRA's models write no more. Empty if nobody commented.
    """
    given = [r for r in accepted.reviews if r.stage == "content" and r.comment and (r.mean or 0.0) >= tau]
    return max(given, key=lambda review: review.mean or 0.0).comment if given else ""


def lessons(turns: Sequence[Turn], rationale_weight: float) -> list[Turn]:
    """The training turns, each once, in a fixed order; with a weight also the rationales as turns of their own.

    The weight is a sampling share: at 1 each rationale occurs once a pass, at 2.5 twice and every second one thrice.
    """
    once = {(turn.instruction, turn.response): turn for turn in turns}
    reasoned = [Turn(REASONING + turn.instruction, turn.rationale) for turn in once.values() if turn.rationale]
    whole, part = divmod(rationale_weight, 1)
    reasoned.sort(key=lambda turn: stable_hash(turn.instruction, turn.response))
    extra = [*reasoned * int(whole), *reasoned[: round(part * len(reasoned))]]
    return sorted([*once.values(), *extra], key=lambda turn: (turn.instruction, turn.response))


def encode(
    tokenizer: Any, turns: Sequence[Turn], max_length: int, say: Callable[[str], None] = lambda text: None
) -> list[Encoded]:
    """Turns as tokens under the tokenizer's chat template. Longer turns are cut; a turn without room for an answer is
    left out."""
    made: list[Encoded] = []
    cut = gone = 0
    for turn in turns:
        prompt, answer = chat(tokenizer, turn.instruction, turn.response)
        question, answered = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, answer))
        room = max_length - len(question)
        cut += 0 < room < len(answered)
        gone += room <= 0
        if room > 0:
            answered = answered[:room]
            made.append(Encoded((*question, *answered), (*[IGNORED] * len(question), *answered)))
    if cut:
        say(f"{cut} of {len(turns)} rows are longer than instruct.max_length ({max_length} tokens): cut there")
    if gone:
        say(f"{gone} of {len(turns)} instructions fill instruct.max_length ({max_length} tokens): left out")
    return made


def chat(tokenizer: Any, instruction: str, response: str) -> tuple[str, str]:
    """The part before the assistant's answer, and the answer with its end token, in the tokenizer's template."""
    user = [{"role": "user", "content": plain(tokenizer, instruction)}]
    assistant = {"role": "assistant", "content": plain(tokenizer, response)}
    prompt: str = tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True)
    whole: str = tokenizer.apply_chat_template([*user, assistant], tokenize=False)
    answer = whole[len(prompt) :].rstrip() if whole.startswith(prompt) else assistant["content"]
    return prompt, answer if answer.endswith(tokenizer.eos_token) else answer + tokenizer.eos_token


def plain(tokenizer: Any, text: str) -> str:
    """The text with its control tokens broken by a space, so that a model's text cannot end or begin a turn."""
    for token in tokenizer.added_tokens_decoder.values():
        mark = token.content
        if token.special and len(mark) > 1:
            text = text.replace(mark, f"{mark[0]} {mark[1:]}")
    return text
