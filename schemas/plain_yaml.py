"""YAML as plain data: reading takes time and memory in proportion to the file's size, whatever its content.

PyYAML resolves aliases and merges without a bound ("billion laughs"), and reads `1:2:3` as a number in base 60, in
quadratic time. Here both are bounded or gone, as in YAML 1.2: `12:30` is text.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

MAX_BYTES = 5_000_000
"""Most characters of a text."""
MAX_NODES = 200_000
"""Most values that aliases and merges may produce."""
MAX_NUMBER = 100
"""Most characters of a number; a longer one is text."""

_INT = re.compile(rf"^(?=.{{1,{MAX_NUMBER}}}$)(?:[-+]?0b[0-1_]+|[-+]?0x[0-9a-fA-F_]+|[-+]?[0-9][0-9_]*)$")
_FLOAT = re.compile(
    rf"^(?=.{{1,{MAX_NUMBER}}}$)(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|[-+]?\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_MERGE, _EQUALS, _TEXT = (f"tag:yaml.org,2002:{kind}" for kind in ("merge", "value", "str"))
_NUMBERS = {"tag:yaml.org,2002:int": _INT, "tag:yaml.org,2002:float": _FLOAT}
_READ: dict[str, Any] = {
    "tag:yaml.org,2002:int": yaml.SafeLoader.construct_yaml_int,
    "tag:yaml.org,2002:float": yaml.SafeLoader.construct_yaml_float,
}  # fmt: skip


class PlainLoader(yaml.SafeLoader):
    """A SafeLoader whose numbers are short and in no base of 60, and whose merges are counted."""

    merged = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Lay the mappings of `<<` under a node's own entries. Raises ConstructorError if they grow without end."""
        under: list[tuple[yaml.Node, yaml.Node]] = []
        own: list[tuple[yaml.Node, yaml.Node]] = []
        for key, value in node.value:
            if key.tag != _MERGE:
                key.tag = _TEXT if key.tag == _EQUALS else key.tag
                own.append((key, value))
                continue
            given = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for one in reversed(given):
                if not isinstance(one, yaml.MappingNode):
                    raise yaml.constructor.ConstructorError(None, None, "<< needs a mapping", one.start_mark)
                self.flatten_mapping(one)
                self.merged += 1 + len(one.value)
                if self.merged > MAX_NODES:
                    raise yaml.constructor.ConstructorError(None, None, "merges (<<) grow without end", one.start_mark)
                under += one.value
        node.value = [*under, *own]

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A number, also if a tag requires one (`!!int`). Raises ConstructorError if it is not plain."""
        text = str(self.construct_scalar(node))
        if not any(pattern.match(text) for pattern in _NUMBERS.values()):
            raise yaml.constructor.ConstructorError(None, None, f"{text[:40]!r} is no plain number", node.start_mark)
        made: int | float = _READ[node.tag](self, node)
        return made


PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, _NUMBERS.get(tag, pattern)) for tag, pattern in known]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag in _NUMBERS:
    PlainLoader.add_constructor(_tag, PlainLoader.construct_number)


def plain(text: str) -> Any:
    """The text as dicts, lists and scalars. Raises yaml.YAMLError, also for a text that is too large or too deep."""
    if len(text) > MAX_BYTES:
        raise yaml.YAMLError(f"it has more than {MAX_BYTES:,} characters")
    loader = PlainLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node)
        return loader.construct_document(node)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
    except (ValueError, OverflowError) as error:
        raise yaml.YAMLError(f"a value cannot be read: {error}") from error
    finally:
        loader.dispose()


def _count(top: yaml.Node) -> None:
    """Raises YAMLError if the text has more than MAX_NODES values, with each alias counted as its target."""
    waiting, seen = [top], 0
    while waiting:
        node = waiting.pop()
        seen += 1
        if seen > MAX_NODES:
            raise yaml.MarkedYAMLError(problem="aliases repeat values without end", problem_mark=node.start_mark)
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            waiting += (one for pair in node.value for one in pair)
