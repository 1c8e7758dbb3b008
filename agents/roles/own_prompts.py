"""Prompts that a recipe replaces (`prompts:`): their values, checks and rendering.

A replaced prompt is a template of the recipe's author, so it runs in a stricter sandbox than ours: no include, no
private attribute, no large product. It may read the values of the original, and every value that it prints is fenced:
text of a seed or a model cannot close a tag that the template opens.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from jinja2 import ChainableUndefined, StrictUndefined, Template, TemplateSyntaxError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from graft.schemas.errors import CallFailed
from graft.schemas.problems import Finding, did_you_mean

FORMS = ("system", "user", "completion")
"""Forms of a question: the two messages of a chat model, and the text that a base model continues."""
LINE_CHARS = 400

_EXAMPLES = ("where is my parcel", "it has not come yet")
_LABELS = (
    {"name": "delivery", "description": "where a parcel is"}, {"name": "refund", "description": "getting money back"},
)  # fmt: skip
_ROWS = tuple({"text": text, "label": one["name"]} for text, one in zip(_EXAMPLES, _LABELS, strict=True))
_REPORT = {"label": "refund", "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 8, "taken_for": "delivery"}
_RUBRIC = ({"name": "fit", "meaning": "the text fits the wanted label.", "examples": (10, 0, 1)},)

VALUES: dict[str, str | tuple[str, Any]] = {
    "about": "description of the label or domain; may be empty",
    "bad": "a seed of another label; may be empty",
    "clause": "completes `a text which …` for the wanted label, such as `is about refunds`",
    "concept": "subject that the text should be about, set by `graft improve`; may be empty",
    "domain": "name of the domain",
    "good": "a seed of the wanted label; may be empty",
    "instruction": "the instruction or message",
    "keywords": "keywords of the new instruction, with commas between them",
    "label": "name of the wanted label",
    "language": "the task's language as ISO 639 code, such as `en`",
    "manner": "attributes that the text should have, such as `length: one sentence`; may be empty",
    "material": "the columns to judge, each between tags of its name",
    "noun": "noun phrase for a text of the task, such as `a message to a shop`",
    "partner": "the second class of a mixed text",
    "partner_about": "description of the second class",
    "policy": "completes `a message that …` for the refused side of the policy",
    "response": "the response to judge; may be empty",
    "safe": "completes `a message that …` for the allowed side of the policy",
    "seed_class": "the main class of a mixed text",
    "steered": "the last student's report and mistakes, ready to print; may be empty",
    "text": "the text to judge, sort or summarise",
    "wanted": "completes `a message which …` for the new message",
    "classes": ("names of the labels", ("delivery", "refund")),
    "count": ("number of texts to write", 2),
    "examples": ("texts of the wanted label", _EXAMPLES),
    "kinds": ("classes of a mixed text, each with `name`, `about` and `examples`",
              ({"name": "delivery", "about": "parcels", "examples": _EXAMPLES},)),
    "labels": ("labels to choose from, each with `name` and `description`", _LABELS),
    "manners": ("attributes of each of the texts", ("length: one sentence",)),
    "mistakes": ("texts that the student got wrong, each with `text`, `label` and `taken_for`",
                 ({"text": _EXAMPLES[0], "label": "refund", "taken_for": "delivery"},)),
    "most": ("most keywords, subjects or attributes to name", 3),
    "own": ("texts of the main class", _EXAMPLES),
    "prior": ("earlier reviews, one line each; empty unless an adjudicator decides", ("fit 8, clarity 9",)),
    "report": ("the student's results, each with `label`, `precision`, `recall`, `f1`, `support` and `taken_for`",
               (_REPORT,)),
    "rest": ("percentage of the second class", 30),
    "rubric": ("criteria, each with `name`, `meaning` and `examples` (three scores of worked examples)", _RUBRIC),
    "share": ("percentage of the main class", 70),
    "shown": ("whether examples are shown", True),
    "texts": ("example texts", _EXAMPLES),
}  # fmt: skip
"""Value of a prompt to its meaning, and a sample if it is not a text. A sample stands for what a real value offers."""

_OF_PROMPT: dict[tuple[str, str], tuple[str, Any]] = {
    ("choice_completion", "examples"): ("texts with their labels, each with `text` and `label`", _ROWS),
    ("label_name", "examples"): ("texts with their labels, each with `text` and `label`", _ROWS),
    ("instruction", "examples"): ("instructions of the domain, each with `summary` and `keywords`",
                                  ({"summary": "Sort a list.", "keywords": "sorting, list"},)),
    ("keywords", "examples"): ("keyword sets of the domain", ("sorting, list",)),
}  # fmt: skip
"""Values that mean something else in one prompt."""

ROLES = {
    "generator": ("text", "texts", "attributes", "steered", "keywords", "instruction", "response", "mix",
                  "harm_message", "seed_domain", "seed_keywords", "seed_summary"),
    "responder": ("respond_refusal", "respond_comply"),
    "reviewer, adjudicator": ("review_flags", "review_response", "review_text", "review_columns"),
    "every judge of labels": ("label_name", "choice_chat", "choice_chat_turn", "choice_completion"),
    "guard": ("guard_llama",),
}  # fmt: skip
"""Roles to the prompts that they get."""

_MORE = {"review_response": frozenset({"rubric"})}
"""Values that a replacement may use and the original does not: the recipe's own rubric has a template of its own."""
_ABOUT = re.compile(r"\A\{#(.*?)#\}", re.DOTALL)
_TAG = re.compile(r"<\s*+/?\s*+([A-Za-z][\w-]{0,40})\s*+>")
_OUTER = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)


def values_of(name: str, original: str) -> dict[str, str]:
    """The values that a prompt may use, with their meanings: those of the original."""
    return {value: _value(name, value)[0] for value in _known(name, original) if value != "form"}


def purpose_of(original: str) -> str:
    """The first sentence of the comment that a prompt of ours opens with."""
    found = _ABOUT.match(original)
    return " ".join(found[1].split()).split(". ")[0].rstrip(".") if found else ""


def role_of(name: str) -> str:
    """The roles that get a prompt; empty for a plugin's."""
    return next((role for role, names in ROLES.items() if name in names), "")


def own_hash(name: str, text: str) -> str:
    """The version of a replaced prompt, as `graft trace` and `graft prompts` name it."""
    return "o_" + hashlib.md5(f"{name}\x1f{text}".encode(), usedforsecurity=False).hexdigest()[:12]


def problems_of(own: Mapping[str, str], originals: Mapping[str, str]) -> list[Finding]:
    """Problems of a recipe's replaced prompts; `originals` are the texts of the prompts that its method has."""
    found: list[Finding] = []
    for name, text in own.items():
        path = ("prompts", name)
        if name not in originals:
            fix = f"{did_you_mean(name, originals)}the method's prompts are {', '.join(originals)}"
            found.append(Finding(path, f"no prompt {name!r}", fix))
        elif problem := _problem(name, text, originals[name]):
            found.append(Finding(path, *problem))
    return found


def render_own(name: str, text: str, values: Mapping[str, Any]) -> str:
    """A replaced prompt with these values; "" for a system message if the template knows no forms.

    Raises CallFailed if the template cannot be rendered with them.
    """
    template, formed = _compiled(text)
    if values.get("form") == "system" and not formed:
        return ""
    try:
        return template.render(values)
    except Exception as error:  # whatever a template can raise
        where = f"prompts.{name}"
        raise CallFailed("prompt", f"cannot be rendered: {error or type(error).__name__}", where=where) from error


def _problem(name: str, text: str, original: str) -> tuple[str, str] | None:
    """The problem of a template and its fix; None if there is none."""
    show = f"graft prompts show {name} prints the original"
    if not text.strip():
        return "the prompt is empty", f"write a template; {show}"
    try:
        used = _used(text)
    except TemplateSyntaxError as error:
        return f"line {error.lineno} of the template: {error.message}", f"correct the template; {show}"
    known = _known(name, original)
    unknown = sorted(used - set(known))
    if unknown:
        fix = f"{did_you_mean(unknown[0], known)}this prompt's values are {', '.join(known)}"
        return f"the template uses {unknown[0]!r}, which this prompt has not", fix
    samples = {value: _value(name, value)[1] for value in known}
    forms = FORMS if "form" in known else ("user",)
    try:
        shown = [_compiled(text)[0].render({**samples, "form": form}) for form in forms]
    except SecurityError as error:
        return f"the template is not allowed: {str(error).rstrip('.')}", f"print values and their listed fields; {show}"
    except Exception as error:  # whatever a template can raise
        what = str(error) or type(error).__name__
        return f"the template cannot be rendered: {what.rstrip('.')}", f"use only the listed fields; {show}"
    if name != "guard_llama" and not any(one.strip() for one in shown[1:] or shown):
        return "the prompt is empty for every model", f"write text for form == 'user' and 'completion'; {show}"
    return None


def _known(name: str, original: str) -> list[str]:
    return sorted(_used(original) | _MORE.get(name, frozenset()))


def _value(prompt: str, value: str) -> tuple[str, Any]:
    """Meaning and sample of a prompt's value; a plugin's value has neither."""
    found: Any = _OF_PROMPT.get((prompt, value)) or VALUES.get(value, ("", ChainableUndefined(name=value)))
    return (found, f"a {value}") if isinstance(found, str) else found


def _used(text: str) -> set[str]:
    """The names that a template reads. Raises TemplateSyntaxError."""
    tree = _environment(frozenset()).parse(text)
    outer = next(tree.find_all(_OUTER), None)
    if outer is not None:
        raise TemplateSyntaxError("a prompt cannot include or import a file", outer.lineno)
    return meta.find_undeclared_variables(tree) - set(_environment(frozenset()).globals)


@cache
def _compiled(text: str) -> tuple[Template, bool]:
    """The template, and whether it tells the forms apart."""
    environment = _environment(frozenset(tag.casefold() for tag in _TAG.findall(text)))
    tree = environment.parse(text)
    named = {"form"} & meta.find_undeclared_variables(tree)
    macros = {macro.name for macro in tree.find_all(nodes.Macro)}
    blocks = {block.target.name for block in tree.find_all(nodes.AssignBlock) if isinstance(block.target, nodes.Name)}
    code = environment.compile(_Fencing(macros | {"caller"}, blocks).visit(tree), name="prompt", filename="prompt")
    return Template.from_code(environment, code, environment.make_globals(None)), bool(named)


class _Fencing(NodeTransformer):
    """Puts the filter `fenced` around every printed value, except text that the template itself makes."""

    def __init__(self, macros: set[str], blocks: set[str]) -> None:
        self._macros, self._blocks = macros, blocks

    def visit_Output(self, node: nodes.Output) -> nodes.Output:
        node.nodes = [one if self._own(one) else _fence(one) for one in node.nodes]
        return node

    def _own(self, node: nodes.Expr) -> bool:
        if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name):
            return node.node.name in self._macros
        if isinstance(node, nodes.Name):
            return node.name in self._blocks
        return isinstance(node, nodes.TemplateData | nodes.Const)


def _fence(node: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, "fenced", [], [], None, None, lineno=node.lineno)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" or not numbers:
            raise SecurityError(f"{operator} of these values is not allowed")
        return left * right


@cache
def _environment(tags: frozenset[str]) -> _Sandbox:
    environment = _Sandbox(
        undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False
    )
    for name in ("lipsum", "cycler", "joiner"):
        environment.globals.pop(name, None)
    environment.filters.update(fenced=_fence_for(tags), line=one_line)
    environment.filters.pop("random", None)  # a run repeats its prompts
    return environment


def _fence_for(tags: frozenset[str]) -> Callable[[Any], Any]:
    """The filter `fenced` of a template with these tags, in small letters, besides those of Graft's prompts."""

    def fenced(value: Any) -> str:
        return _TAG.sub(closed, str(value))

    def closed(hit: re.Match[str]) -> str:
        return "‹" + hit[0][1:] if hit[1].casefold() in tags else hit[0]

    return fenced


def one_line(text: str, limit: int = LINE_CHARS) -> str:
    """Text on one line, cut to `limit` characters, so that it cannot look like another entry of a list."""
    return " ".join(text.split())[:limit]
