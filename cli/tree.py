"""A row's history as a tree for the terminal. Text from models and people is shown as plain text.

Restricted text is hidden in the history already.
"""

from __future__ import annotations

from typing import Any

from rich.text import Text
from rich.tree import Tree

from graft.data.explain import words_of
from graft.schemas.display import Part, View, of_data, plain
from graft.schemas.money import money

SHOWN = 300
"""Characters shown of a text; --json has all of it."""


def history_tree(history: dict[str, Any]) -> Tree:
    """The row's history from seeds to students."""
    root = Tree(_line(f"row {history['id']}", history["label"]))
    _view(root, of_data(history["view"]))
    if history.get("published"):
        now = history["published"]
        _leaf(root, f"now, in {now['dataset']}@{now['version']}", f"{now['label']}: {plain(of_data(now['view']))}")
    _decision(root, history["decision"], history.get("probability"))
    _drawn(root, history)
    _columns(root, history)
    for one in history["passages"]:
        _leaf(root, _place(one), one["text"] or "its text is not in this lake")
    if history["exemplars"]:
        _branch(root, "seeds shown", [(row["id"], row["text"]) for row in history["exemplars"]])
    _branch(root, "roles", list(history["models"].items()))
    _branch(root, "calls", [_call(call) for call in history["calls"]])
    _branch(root, "reviews", [_review(review) for review in history["reviews"]])
    _branch(root, "gates", [_gate(gate) for gate in history["gates"]])
    _branch(root, "price", [("", money(history["price_usd"], history["local"]))])
    run = history["run"]
    _branch(root, "run", [(run["id"], f"graft {run.get('code_version', '?')}, {run.get('recipe_file', '')}")])
    if run.get("by"):
        _leaf(root, "started by", run["by"])
    _later(root, history)
    held = [(f"{v['dataset']}@{v['version']}", v["split"]) for v in history["versions"]]
    _branch(root, "in versions", held or [("", "none")])
    learned = [(s["id"], s["path"]) for s in history["students"]]
    _branch(root, "students that learned from it", learned or [("", "none")])
    return root


def preview_tree(history: dict[str, Any], prompts: bool) -> Tree:
    """A preview's row: its words, requests, reviews, failed gates and decision, and the prompts on request."""
    status = (history["decision"] or {}).get("status", "undecided")
    root = Tree(_line(f"{status}  {history['label'] or history['slot']['label']}", ""))
    _view(root, of_data(history["view"]))
    _decision(root, history["decision"], history.get("probability"))
    _drawn(root, history)
    _columns(root, history)
    for one in history["passages"]:
        _leaf(root, _place(one), one["text"] or "its text is not in this lake")
    for review in history["reviews"]:
        root.add(_line(*_review(review)))
    failed = [gate for gate in history["gates"] if not gate["passed"]]
    for gate in failed:
        root.add(_line(*_gate(gate)))
    if history["gates"]:
        _leaf(root, "gates", f"{len(history['gates']) - len(failed)} of {len(history['gates'])} passed")
    for call in history["calls"] if prompts else ():
        branch = root.add(_line(*_call(call)))
        for part in (call["request"], call["reply"]):
            branch.add(Text(words_of(part)))
    return root


def _view(root: Tree, view: View) -> None:
    for part in view:
        _leaf(root, part.title or part.tone, plain((Part(part.pieces),)))


def _titles(history: dict[str, Any]) -> set[str]:
    """Columns that the row's view shows already."""
    return {part.title for part in of_data(history["view"]) if part.title}


def _columns(root: Tree, history: dict[str, Any]) -> None:
    shown = _titles(history)
    if columns := [one for one in history["columns"] if one[0] not in shown]:
        _branch(root, "columns", columns)


def _place(passage: dict[str, Any]) -> str:
    """The document and the code points of a passage."""
    return f"passage of {passage['document']}, {passage['start']:,} to {passage['end']:,}"


def _later(root: Tree, history: dict[str, Any]) -> None:
    """The origin of the text, people's edits and later versions; empty parts are left out."""
    origin, shown = history.get("origin"), history.get("shown_to") or {}
    if origin:
        _leaf(root, f"{origin['source']} row", f"of {origin['file'] or 'an unknown file'}, run {origin['run']}")
    parts = {
        "people": [_edit(edit) for edit in history.get("edits", ())],
        "recalls": [(f"{r['kind']} {r['value']}", f"{r['reason']} ({r['by']})") for r in history.get("recalls", ())],
        "left out of": [_drop(drop) for drop in history.get("drops", ())],
    }
    for name, items in parts.items():
        if items:
            _branch(root, name, items)
    if shown.get("rows"):
        _leaf(root, "shown as an exemplar to", f"{shown['rows']} candidates, {shown['accepted']} of them accepted")


def _edit(edit: dict[str, Any]) -> tuple[str, str]:
    parts = [f"{name} {edit[name]!r}" for name in ("label", "text", "response", "data") if edit[name] is not None]
    parts += [f"– {edit['note']}"] if edit["note"] else []
    return f"{edit['action']} by {edit['by']}", f"{edit['dataset']}@{edit['version']} " + ", ".join(parts)


def _drop(drop: dict[str, Any]) -> tuple[str, str]:
    score = "" if drop["score"] is None else f", score {drop['score']:.3f}"
    hit = f", hit {drop['neighbour']}" if drop["neighbour"] else ""
    return (
        f"{drop['dataset']}@{drop['version']}",
        f"{drop['gate']}: {drop['rule']}{score}{hit} {drop['detail']}".strip(),
    )


def _decision(root: Tree, decision: dict[str, Any] | None, probability: float | None) -> None:
    if decision:
        facts = [decision["reason"].rstrip(".")]
        if decision.get("mean") is not None:
            facts.append(f"mean {decision['mean']:.2f}")
        if decision.get("spread") is not None:
            facts.append(f"spread {decision['spread']:.2f}")
        if probability is not None:
            facts.append(f"probability of its label {probability:.0%}")
        if decision.get("saved"):
            facts.append(f"{decision['saved']} reviews saved")
        _leaf(root, f"{decision['status']} ({decision['code']})", ", ".join(facts))


def _drawn(root: Tree, history: dict[str, Any]) -> None:
    """The request beyond the label, and how the label was decided."""
    labelling = history.get("labelling")
    shown = _titles(history)
    for name, text in history.get("meant", ()):
        if name not in shown:
            _leaf(root, name, text)
    if labelling:
        kept = "label confirmed" if history["intended_label"] else "label given"
        verb = "relabelled" if labelling["relabelled"] else kept if labelling["label"] else "no label"
        votes = ", by votes" if labelling["votes"] else ""
        _leaf(root, f"{verb} by {labelling['by']}", f"among {', '.join(labelling['candidates'])}{votes}")
    if history.get("soft_label"):
        shares = sorted(history["soft_label"].items(), key=lambda item: -item[1])
        _leaf(root, "soft label", ", ".join(f"{label} {share:.0%}" for label, share in shares[:6]))


def _call(call: dict[str, Any]) -> tuple[str, str]:
    tokens = f"{call['prompt_tokens'] or '?'} + {call['completion_tokens'] or '?'} tokens"
    model = f"{call['model']}" + (f" rev {call['revision']}" if call["revision"] else "")
    drawn = "".join(f", {name} {value}" for name, value in call.get("parameters", {}).items())
    prompt = f", prompt {call['prompt_version']}" if call.get("prompt_version") else ""
    ended = call["failure"] or ("from the journal" if call["cached"] else f"{call['latency_s']:.2f} s")
    return call[
        "purpose"
    ], f"{model}, {tokens}, {money(call['price_usd'], call['local'])}, {ended}{drawn}{prompt}, key {call['key'][:12]}"


def _review(review: dict[str, Any]) -> tuple[str, str]:
    head = f"{review['role']} {review['model']}"
    if review["failure"]:
        return head, f"failed: {review['failure']}"
    parts = [f"{name} {value:g}" for name, value in {**review["flags"], **review["scores"]}.items()]
    if review["mean"] is not None:
        parts.insert(0, f"mean {review['mean']:.2f}:")
    if review.get("probability") is not None:
        parts.insert(0, f"probability {review['probability']:.0%},")
    if review.get("answer") and not review["distribution"]:
        parts.append(f"answered {review['answer']!r}, which is not a label of the set")
    if review["comment"]:
        parts.append(f"– {review['comment']}")
    return head, " ".join(parts)


def _gate(gate: dict[str, Any]) -> tuple[str, str]:
    state = "passed" if gate["passed"] else f"failed by {gate['rule']}"
    score = "" if gate["score"] is None else f", score {gate['score']:.3f}"
    hit = f", hit {gate['neighbour']}: {gate.get('neighbour_text') or ''}" if gate["neighbour"] else ""
    return gate["gate"], state + score + hit


def _branch(root: Tree, name: str, items: list[tuple[str, str]]) -> None:
    branch = root.add(Text(name, style="bold"))
    for head, rest in items:
        branch.add(_line(head, rest))


def _leaf(root: Tree, head: str, rest: str) -> None:
    root.add(_line(head, rest))


def _line(head: str, rest: str) -> Text:
    clean = "".join(letter if letter.isprintable() else " " for letter in str(rest))
    text = Text()
    if head:
        text.append(head, style="cyan")
        text.append("  ")
    text.append(clean if len(clean) <= SHOWN else clean[:SHOWN] + "…")
    return text
