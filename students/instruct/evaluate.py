"""Responses of a causal model, and the likelihood of given ones: nats per token, preferences. Loads torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from graft.students.encoder import quiet_transformers
from graft.students.instruct.data import IGNORED, Encoded, chat

Likelihood = tuple[float, int]
"""The summed log-probability of a response's tokens, in nats, and how many they are."""


TOKENS = 2048
"""Most tokens of a batch, with padding: with a vocabulary of 50,000 words their logits take 400 MB."""


@torch.inference_mode()
def likelihoods(model: Any, rows: Sequence[Encoded]) -> list[Likelihood]:
    """The likelihood of each row's response under the model, in the rows' order."""
    model.eval()
    device = next(model.parameters()).device
    found: list[Likelihood] = [(0.0, 0)] * len(rows)
    with quiet_transformers():
        for part in _batches(rows):
            for each, likelihood in zip(part, _of(model, [rows[n] for n in part], device), strict=True):
                found[each] = likelihood
    return found


def _batches(rows: Sequence[Encoded]) -> Iterator[list[int]]:
    """The rows' places in batches of similar length; a row longer than TOKENS is alone."""
    part: list[int] = []
    for each in sorted(range(len(rows)), key=lambda place: len(rows[place].ids)):
        if part and (len(part) + 1) * len(rows[each].ids) > TOKENS:
            yield part
            part = []
        part.append(each)
    if part:
        yield part


def _of(model: Any, rows: Sequence[Encoded], device: Any) -> list[Likelihood]:
    """Of one batch. Logits start where the first response begins: earlier ones are not needed."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[0] * (longest - len(row.ids))] for row in rows], device=device)
    seen = torch.tensor([[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows], device=device)
    labels = torch.tensor([[*row.labels, *[IGNORED] * (longest - len(row.labels))] for row in rows], device=device)
    first = min(next(n for n, label in enumerate(row.labels) if label != IGNORED) for row in rows)
    begin = max(0, first - 1)
    logits = model(input_ids=ids, attention_mask=seen, use_cache=False, logits_to_keep=longest - begin).logits
    wanted = labels[:, begin + 1 :]
    nats = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="none"
    ).view(wanted.shape)
    count = (wanted != IGNORED).sum(1)
    return [(-float(total), int(number)) for total, number in zip(nats.sum(1), count, strict=True)]


def mean_loss(found: Sequence[Likelihood]) -> tuple[float, int]:
    """Mean negative log-likelihood of a response's tokens, in nats, and the number of tokens."""
    tokens = sum(count for _, count in found)
    return -sum(total for total, _ in found) / max(1, tokens), tokens


def preferred(chosen: Sequence[Likelihood], rejected: Sequence[Likelihood]) -> float | None:
    """Share of pairs whose chosen response is likelier per token, so that length does not count."""
    if not chosen:
        return None
    better = [a / max(1, n) > b / max(1, m) for (a, n), (b, m) in zip(chosen, rejected, strict=True)]
    return sum(better) / len(better)


AT_ONCE = 8
"""Instructions that are responded to together."""


@torch.inference_mode()
def respond(model: Any, tokenizer: Any, instructions: Sequence[str], most: int) -> list[str]:
    """The greedy response to each instruction, of at most `most` tokens; prompts are cut to as many."""
    model.eval()
    found = [""] * len(instructions)
    prompts = [chat(tokenizer, text, "")[0] for text in instructions]
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    with quiet_transformers():
        for start in range(0, len(order), AT_ONCE):
            part = order[start : start + AT_ONCE]
            given = tokenizer(
                [prompts[place] for place in part], add_special_tokens=False, padding=True, padding_side="left",
                truncation=True, max_length=most, return_tensors="pt",
            ).to(next(model.parameters()).device)  # fmt: skip
            made = model.generate(
                input_ids=given["input_ids"], attention_mask=given["attention_mask"], max_new_tokens=most,
                do_sample=False, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
            )  # fmt: skip
            texts = tokenizer.batch_decode(made[:, given["input_ids"].shape[1] :], skip_special_tokens=True)
            for place, text in zip(part, texts, strict=True):
                found[place] = text.strip()
    return found
