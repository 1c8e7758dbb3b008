"""Conversations: turns of system, user, assistant and tools. Every tool call is validated against its JSON schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import orjson
from pydantic import Field, JsonValue, field_validator

from graft.schemas.base import Value
from graft.schemas.display import Part, View, part
from graft.schemas.forms import FormField, from_blocks, to_blocks
from graft.schemas.problems import FieldErrors, Finding
from graft.schemas.tasks.base import DomainTask, Fault, Words, from_json
from graft.schemas.tool_schemas import NAME, problem_of, schema_problem

ROLES = ("system", "user", "assistant", "tool")
AFTER = {
    "": ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user",), "tool": ("assistant",),
}  # fmt: skip
"""Who may speak after whom; a tool's result follows the call that it answers."""
MOST = 400
"""Most turns of a conversation."""
SHOWN = 60
HINT = "each turn after a line >>> user, assistant, call NAME (its arguments as JSON), tool NAME"


class Tool(Value):
    """A tool that an assistant may call."""

    name: str = Field(pattern=NAME.pattern)
    description: str = ""
    parameters: dict[str, JsonValue] = Field(default={"type": "object"}, description="JSON schema of its arguments")

    @field_validator("parameters")
    @classmethod
    def _sound(cls, given: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if problem := schema_problem(given):
            raise FieldErrors([Finding((), problem, "write a JSON schema of draft 2020-12")])
        return given


class ConversationTask(DomainTask):
    """Conversations in the column `messages`; the column `tools` holds the tools that they may call.

    The text is the user's first message unless the row has another. A call is {name, arguments, id?} in the assistant
    turn's `tool_calls`; a turn of the role tool answers it, by `name` or `tool_call_id`.
    """

    kind: Literal["conversation"] = "conversation"
    tools: tuple[Tool, ...] = Field(default=(), description="tools of rows that bring none of their own")
    least_turns: int = Field(default=2, ge=2, le=MOST, description="least turns, without the system's")
    calls: bool = Field(default=False, description="whether every conversation needs a tool call")

    free_form: ClassVar[bool] = True
    student: ClassVar[str] = ""
    hub_category: ClassVar[str] = "text-generation"
    columns: ClassVar[tuple[str, ...]] = ("messages", "tools")
    needed: ClassVar[tuple[str, ...]] = ("messages",)
    own_text: ClassVar[bool] = False
    checked: ClassVar[bool] = True

    @property
    def noun(self) -> str:
        """See Task."""
        return "a conversation with an assistant"

    def settle(self, row: Words, before: str | None = None) -> dict[str, Any]:
        """Messages and tools in Graft's form, also from OpenAI's (`function`, arguments as JSON) and ShareGPT's.

        A row without tools gets the task's, so that it can be read on its own.
        """
        found = {**row.data}
        for name in self.columns:
            if name in found:
                found[name] = from_json(found[name])
        if self.tools and found.get("tools") is None:
            found["tools"] = [tool.model_dump() for tool in self.tools]
        if isinstance(found.get("messages"), list):
            found["messages"] = [_turn(one) for one in found["messages"]]
        if isinstance(found.get("tools"), list):
            found["tools"] = [one.get("function", one) if isinstance(one, Mapping) else one for one in found["tools"]]
        return found

    def text_of(self, data: Mapping[str, Any]) -> str:
        """The user's first message."""
        turns = data.get("messages")
        said = (one.get("content") for one in (turns if isinstance(turns, list) else ()) if _role(one) == "user")
        return next((words for words in said if isinstance(words, str)), "")

    def faults(self, row: Words) -> tuple[Fault, ...]:
        """Roles take turns, each call fits its tool's schema, and each is answered before the assistant goes on."""
        turns = row.data.get("messages")
        if not isinstance(turns, list) or not turns:
            return (Fault("no_messages", "the row has no messages"),)
        if len(turns) > MOST:
            return (Fault("too_many_turns", f"the conversation has more than {MOST} turns"),)
        tools, wrong = self._tools(row)
        if wrong:
            return (wrong,)
        said = sum(_role(one) != "system" for one in turns)
        calls = [(number, one) for number, turn in enumerate(turns, 1) for one in _calls(turn)]
        found = [*_order(turns), *(fault for number, one in calls if (fault := _call_fault(number, one, tools)))]
        if said < self.least_turns:
            found.append(Fault("few_turns", f"the conversation has {said} turns; the task needs {self.least_turns}"))
        if self.calls and not calls:
            found.append(Fault("no_call", "the conversation has no tool call"))
        return tuple(found)

    def _tools(self, row: Words) -> tuple[dict[str, Mapping[str, Any]], Fault | None]:
        """The schema of each tool's arguments by its name, or the fault of a tool."""
        given = row.data.get("tools")
        listed = given if isinstance(given, list) else []
        found: dict[str, Mapping[str, Any]] = {}
        for number, one in enumerate(listed, 1):
            name = one.get("name") if isinstance(one, Mapping) else None
            if not isinstance(name, str) or not NAME.match(name) or name in found:
                return {}, Fault("tool_name", f"tool {number}: {str(name)[:SHOWN]!r} is no name, or not a unique one")
            schema = one.get("parameters") or {"type": "object"}
            if problem := schema_problem(schema):
                return {}, Fault("tool_schema", f"tool {number} ({name}): {problem}")
            found[name] = schema
        return found, None

    def view(self, row: Words) -> View:
        """The turns, each titled with its role, calls and results among them."""
        turns = row.data.get("messages")
        if not isinstance(turns, list):
            return self._view(row)
        parts: list[Part] = []
        for turn in turns:
            role, name = _role(turn), turn.get("name") if isinstance(turn, Mapping) else None
            words = _content(turn)
            if words or not _calls(turn):
                title = f"{role} {name}" if name else role
                parts.append(part(words, title, "call" if role == "tool" else "response" if role == "assistant"
                                  else "turn"))  # fmt: skip
            parts += [part(_json(call.get("arguments")), f"calls {call.get('name')}", "call") for call in _calls(turn)]
        tools = [str(one.get("name")) for one in row.data.get("tools") or () if isinstance(one, Mapping)]
        listed = (part(", ".join(tools), "tools", "aside"),) if tools else ()
        return self._view(row, *parts, *listed, shown=self.columns)

    def form(self, row: Words) -> tuple[FormField, ...]:
        """The turns as blocks."""
        blocks: list[tuple[str, str]] = []
        for turn in row.data.get("messages") or ():
            calls = _calls(turn)
            head = " ".join(str(word) for word in (_role(turn), *_named(turn, "tool_call_id")) if word)
            if _content(turn) or not calls:
                blocks.append((head, _content(turn)))
            elif not blocks or _role(turn) != "assistant":
                blocks.append((head, ""))
            else:
                blocks.append(("assistant", ""))
            blocks += [(" ".join(("call", *_named(call, "id"))), _json(call.get("arguments"))) for call in calls]
        return (FormField("messages", "turns", to_blocks(blocks), HINT),)

    def of_form(self, values: Mapping[str, str], row: Words) -> dict[str, Any]:
        """Turns read from their blocks. Raises ValueError for a head or arguments that cannot be read."""
        if "messages" not in values:
            return self.settle(row)
        turns: list[dict[str, Any]] = []
        for head, words in from_blocks(values["messages"]):
            kind, *names = head.split()[:3] or [""]
            named = next((name for name in names if not name.startswith("#")), "")
            ids = {"name": named} if named else {}
            marks = [name[1:] for name in names if name.startswith("#")]
            if kind == "call" and ids and turns and turns[-1]["role"] == "assistant":
                call = {**ids, "arguments": _arguments(words, head), **({"id": marks[0]} if marks else {})}
                turns[-1].setdefault("tool_calls", []).append(call)
            elif kind in ROLES:
                turns.append({"role": kind, "content": words, **ids, **({"tool_call_id": marks[0]} if marks else {})})
            else:
                raise ValueError(f"{head[:SHOWN]!r} begins no turn: {HINT}")
        return self.settle(Words(row.text, data={**row.data, "messages": turns}))

    def measures(self, row: Words) -> Mapping[str, Sequence[float | str]]:
        """Turns and calls a conversation, characters a turn, the tools that are called."""
        turns = row.data.get("messages") or ()
        calls = [call for turn in turns for call in _calls(turn)]
        return {
            "turns a conversation": [sum(_role(turn) != "system" for turn in turns)],
            "tool calls a conversation": [len(calls)],
            "characters a turn": [len(_content(turn)) for turn in turns if _content(turn)],
            "tool called": [str(call.get("name")) for call in calls],
        }


KIND = ConversationTask


def _role(turn: Any) -> str:
    return str(turn.get("role", "")) if isinstance(turn, Mapping) else ""


def _content(turn: Any) -> str:
    words = turn.get("content") if isinstance(turn, Mapping) else None
    return words if isinstance(words, str) else "" if words is None else _json(words)


def _calls(turn: Any) -> list[Mapping[str, Any]]:
    given = turn.get("tool_calls") if isinstance(turn, Mapping) else None
    return [one for one in given if isinstance(one, Mapping)] if isinstance(given, list) else []


def _json(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode()


def _named(of: Mapping[str, Any], mark: str) -> list[str]:
    return [*([str(of["name"])] if of.get("name") else []), *([f"#{of[mark]}"] if of.get(mark) else [])]


def _arguments(words: str, head: str) -> Any:
    try:
        return orjson.loads(words or "{}")
    except orjson.JSONDecodeError as error:
        raise ValueError(f"the arguments of {head[:SHOWN]!r} are not JSON: {error}") from None


def _turn(given: Any) -> Any:
    """A message in Graft's form; anything that is none is returned as it is."""
    if not isinstance(given, Mapping):
        return given
    made = {name: value for name, value in given.items() if value is not None or name == "content"}
    if "role" not in made and isinstance(made.get("from"), str):
        role = made.pop("from")
        made = {"role": {"human": "user", "gpt": "assistant"}.get(role, role), "content": made.pop("value", ""), **made}
    made["content"] = "" if made.get("content") is None else made["content"]
    if isinstance(made.get("tool_calls"), str):
        made["tool_calls"] = from_json(made["tool_calls"])
    if isinstance(made.get("tool_calls"), list):
        made["tool_calls"] = [_call(one) for one in made["tool_calls"]]
        if not made["tool_calls"]:
            del made["tool_calls"]
    return made


def _call(given: Any) -> Any:
    if not isinstance(given, Mapping):
        return given
    function = given.get("function")
    inner = function if isinstance(function, Mapping) else given
    arguments = inner.get("arguments", {})
    made = {"name": inner.get("name"), "arguments": from_json(arguments)}
    return {**made, **({"id": given["id"]} if given.get("id") else {})}


def _order(turns: Sequence[Any]) -> list[Fault]:
    """The first fault of the roles' order: who may speak after whom, and calls without an answer."""
    before, open_calls = "", list[Mapping[str, Any]]()
    for number, turn in enumerate(turns, 1):
        role, here = _role(turn), f"turn {number}:"
        if role not in ROLES:
            return [Fault("turn_role", f"{here} {role[:SHOWN]!r} is not one of the roles {', '.join(ROLES)}")]
        if not isinstance(turn.get("content", ""), str):
            return [Fault("turn_content", f"{here} the content is not text")]
        given = turn.get("tool_calls")
        if given is not None and (role != "assistant" or len(_calls(turn)) != len(given)):
            return [Fault("turn_calls", f"{here} only an assistant may call tools, in a list of calls")]
        if not _content(turn).strip() and not _calls(turn) and role != "tool":
            return [Fault("turn_empty", f"{here} the {role}'s turn is empty")]
        if role == "tool":
            match = next((one for one in open_calls if _answers(turn, one)), None)
            if match is None:
                return [Fault("tool_result", f"{here} this tool result answers no call of the turn before")]
            open_calls.remove(match)
        elif open_calls:
            name = open_calls[0].get("name")
            return [Fault("call_unanswered", f"{here} the {role} speaks before {name} has answered its call")]
        elif role not in AFTER[before]:
            return [Fault("turn_order", f"{here} the {role} may not speak after the {before or 'beginning'}")]
        open_calls = [*open_calls, *_calls(turn)]
        before = role
    if before in ("user", "tool"):
        return [Fault("turn_order", f"turn {len(turns)}: the conversation ends with the {before}")]
    return []


def _answers(turn: Mapping[str, Any], call: Mapping[str, Any]) -> bool:
    if turn.get("tool_call_id") and call.get("id"):
        return bool(turn["tool_call_id"] == call["id"])
    return not turn.get("name") or turn["name"] == call.get("name")


def _call_fault(number: int, call: Mapping[str, Any], tools: Mapping[str, Mapping[str, Any]]) -> Fault | None:
    name, arguments = call.get("name"), call.get("arguments", {})
    if name not in tools:
        known = f"the tools are: {', '.join(list(tools)[:20])}" if tools else "the row has no tools"
        return Fault("call_unknown", f"turn {number}: there is no tool {str(name)[:SHOWN]!r}; {known}")
    if not isinstance(arguments, Mapping):
        return Fault("call_arguments", f"turn {number}: the arguments of {name} are not a JSON object")
    if problem := problem_of(arguments, tools[str(name)]):
        return Fault("call_arguments", f"turn {number}: {name}: {problem}")
    return None
