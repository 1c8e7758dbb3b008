"""A person's row filter, made safe: it is parsed, its tree checked against a short list, and SQL made of the tree.

The filter's own text never reaches the lake's connection. It may name the columns of ROW_COLUMNS, constants and the
functions of FUNCTIONS; tables, subqueries, parameters, casts and further statements are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from graft.schemas.errors import GraftError

ROW_COLUMNS = ("id", "text", "response", "label", "split", "source", "restricted")
"""What `--columns` and `--where` may name."""
FUNCTIONS = frozenset((
    "length", "strlen", "lower", "upper", "trim", "ltrim", "rtrim", "contains", "starts_with", "ends_with",
    "prefix", "suffix", "regexp_matches", "regexp_full_match", "like_escape", "ilike_escape", "not_like_escape",
    "not_ilike_escape", "~~", "!~~", "~~*", "!~~*", "+", "-", "*", "/", "//", "%", "^@", "left", "right",
    "substring", "substr", "strpos", "instr", "position", "hash", "md5", "abs", "round", "unicode", "ascii",
))  # fmt: skip
"""None makes a text longer than its argument, and none takes more than linear time in it."""
CLASSES = frozenset(("CONJUNCTION", "COMPARISON", "OPERATOR", "BETWEEN", "CASE", "CONSTANT", "COLUMN_REF", "FUNCTION"))
OPERATORS = frozenset((
    "COMPARE_IN", "COMPARE_NOT_IN", "OPERATOR_NOT", "OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL", "OPERATOR_COALESCE",
))  # fmt: skip
LIKES = {
    "~~": "", "!~~": "", "~~*": "i", "!~~*": "i", "like_escape": "", "not_like_escape": "", "ilike_escape": "i",
    "not_ilike_escape": "i",
}  # fmt: skip
"""LIKE in its eight forms; `i` marks those that ignore case."""
REGEXES = ("regexp_matches", "regexp_full_match")
MOST_FUNCTIONS = 40
"""Calls of functions in one condition, each of which reads a whole text."""
LARGEST_REGEX = 1_000
"""Signs of a regular expression after its counted repetitions are written out; a class such as \\w counts as 5."""
HEAD = "SELECT * FROM chosen WHERE "
LONGEST = 10_000
WORDS = ("text", "response")
FIX = "one condition over id, text, response, label, split, source, restricted, such as: length(text) > 20"


def safe_where(text: str) -> str:
    """The filter as SQL over those columns, written anew from its parsed form. Raises GraftError."""
    import duckdb

    if len(text) > LONGEST or "\x00" in text:
        raise _refused(f"it has more than {LONGEST:,} characters, or a NUL byte")
    config: dict[str, str | bool | int | float | list[str]] = {
        "enable_external_access": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "memory_limit": "100MB",
        "threads": 1,
    }
    with duckdb.connect(":memory:", config=config) as parser:
        parser.execute("SET lock_configuration = true")
        kinds = [f"{name} {'BOOLEAN' if name == 'restricted' else 'VARCHAR'}" for name in ROW_COLUMNS]
        parser.execute(f"CREATE TABLE chosen ({', '.join(kinds)})")
        try:
            made = _checked(parser, text)
            kind = parser.execute(f"DESCRIBE SELECT ({made}) AS it FROM chosen").fetchall()[0][1]
        except duckdb.Error as error:
            raise _refused(str(error).splitlines()[0]) from None
        except RecursionError:
            raise _refused("it is nested too deeply") from None
    if kind != "BOOLEAN":
        raise _refused(f"it gives {kind}, not true or false")
    return made


def _checked(parser: Any, text: str) -> str:
    """Only what stands in the WHERE clause may differ from a query without a filter."""
    tree, bare = (_tree(parser, clause) for clause in (f"{HEAD}\n{text}\n", f"{HEAD}true"))
    statements = tree.get("statements", ())
    if tree["error"]:
        raise _refused(str(tree.get("error_message", "it cannot be parsed")))
    if len(statements) != 1:
        raise _refused("it is more than one statement")
    node, plain = statements[0]["node"], bare["statements"][0]["node"]
    clause = node.get("where_clause")
    if {**_unplaced(node), "where_clause": 0} != {**_unplaced(plain), "where_clause": 0} or clause is None:
        raise _refused("it is more than a condition")
    _check(clause)
    if (calls := json.dumps(clause).count('"class": "FUNCTION"')) > MOST_FUNCTIONS:
        raise _refused(f"it calls {calls} functions, and may call {MOST_FUNCTIONS}")
    node["where_clause"] = _linear(clause)
    made = str(parser.execute("SELECT json_deserialize_sql(?)", [json.dumps(tree)]).fetchall()[0][0])
    if not made.startswith(HEAD):
        raise _refused("it is more than a condition")
    return made.removeprefix(HEAD)


def _tree(parser: Any, query: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(parser.execute("SELECT json_serialize_sql(?)", [query]).fetchall()[0][0])
    return found


def _unplaced(node: Any) -> Any:
    """The tree without where in the text each part stood."""
    if isinstance(node, dict):
        return {name: _unplaced(value) for name, value in node.items() if name != "query_location"}
    return [_unplaced(value) for value in node] if isinstance(node, list) else node


def _check(node: Any) -> None:
    if isinstance(node, list):
        for one in node:
            _check(one)
    if not isinstance(node, dict):
        return
    kind = node.get("class")
    if kind == "CAST" and node["cast_type"]["id"] == "BOOLEAN" and node["child"].get("class") == "CONSTANT":
        return
    if kind is not None and kind not in CLASSES:
        raise _refused(f"{kind.lower().replace('_', ' ')} is not allowed in it")
    if kind == "COLUMN_REF" and (len(node["column_names"]) != 1 or node["column_names"][0].lower() not in ROW_COLUMNS):
        raise _refused(f"there is no column {'.'.join(node['column_names'])!r}")
    if kind == "OPERATOR" and node["type"] not in OPERATORS:
        raise _refused(f"{node['type'].lower().replace('_', ' ')} is not allowed in it")
    if kind == "FUNCTION":
        _check_function(node)
    if kind != "CONSTANT":
        for value in node.values():
            _check(value)


def _check_function(node: dict[str, Any]) -> None:
    name = node["function_name"].lower()
    schemas = ("", "main")  # the parser writes `main` where SQL has a syntax of its own: LIKE … ESCAPE, SUBSTRING
    if node["schema"] not in schemas or node["catalog"] or name not in FUNCTIONS:
        raise _refused(f"the function {node['function_name']!r} is not allowed in it")
    if name in LIKES or name in REGEXES:
        if not all(_constant(child) is not None for child in node["children"][1:]):
            raise _refused("a pattern has to be a text in quotes")
        if name in REGEXES:
            _check_regex(_constant(node["children"][1]) or "")


def _constant(node: dict[str, Any]) -> str | None:
    """The text of a constant; None where the node is anything else."""
    value = node.get("value") if node.get("class") == "CONSTANT" else None
    known = value is not None and not value["is_null"] and value["type"]["id"] == "VARCHAR"
    return str(value["value"]) if known and value is not None else None


def _check_regex(pattern: str) -> None:
    """DuckDB's regular expressions (RE2) take linear time, times the expression's size with its repetitions."""
    size = len(pattern) + 4 * len(re.findall(r"\\[dDwWsS]|\.|\[", pattern)) + 100 * len(re.findall(r"\\[pPX]", pattern))
    for counts in re.findall(r"\{([\d,]+)\}", pattern):
        size *= max(1, *(int(count[:9] or 1) for count in counts.split(",")))
    if size > LARGEST_REGEX:
        raise _refused("its regular expression is too large: shorten it, or repeat less in it")


def _linear(node: Any) -> Any:
    """The tree with each LIKE whose matching DuckDB would try again and again as a regular expression.

    DuckDB's LIKE takes time to the power of the pattern's `%` where there is a `_`, an ESCAPE or no regard of case.
    """
    if isinstance(node, list):
        return [_linear(one) for one in node]
    if not isinstance(node, dict) or node.get("class") == "CONSTANT":
        return node
    node = {name: _linear(value) for name, value in node.items()}
    name = node["function_name"].lower() if node.get("class") == "FUNCTION" else ""
    if name:
        node["schema"] = ""
    if name not in LIKES:
        return node
    text, *rest = node["children"]
    pattern, escape = [*(_constant(one) or "" for one in rest), ""][:2]
    if name in ("~~", "!~~") and "_" not in pattern:
        return node
    if LIKES[name]:  # DuckDB's ILIKE compares the pattern with its ESCAPE after it has lowered the pattern alone
        pattern = pattern.lower()
    constants = [
        {**rest[0], "value": {"type": {"id": "VARCHAR", "type_info": None}, "is_null": False, "value": value}}
        for value in (like_as_regex(pattern, escape), "s" + LIKES[name])
    ]
    made = {**node, "function_name": "regexp_full_match", "is_operator": False,
            "children": [text, *constants]}  # fmt: skip
    if not name.startswith(("!", "not_")):
        return made
    place = {"alias": "", "query_location": node["query_location"]}
    return {"class": "OPERATOR", "type": "OPERATOR_NOT", **place, "children": [made]}


def like_as_regex(pattern: str, escape: str = "") -> str:
    """The pattern of a LIKE as a regular expression for a whole text; `escape` is one sign or none."""
    if len(escape) > 1:
        raise _refused("ESCAPE takes one character")
    made, signs = "", iter(pattern)
    for sign in signs:
        if sign == escape:
            literal = next(signs, None)
            if literal is None:
                raise _refused("its pattern ends with the ESCAPE character")
            made += re.escape(literal)
        else:
            made += {"%": ".*", "_": "."}.get(sign) or re.escape(sign)
    return made


def visible(columns: Iterable[str], *, restricted: bool) -> str:
    """SQL of these columns of the rows that a filter runs over: unless `restricted`, it sees no words of hidden rows.

    Their text and response are NULL to it, so that no condition on words holds for them, nor does its opposite.
    """
    hidden = () if restricted else WORDS
    return ", ".join(f"CASE WHEN NOT restricted THEN {one} END AS {one}" if one in hidden else one for one in columns)


def _refused(why: str) -> GraftError:
    return GraftError(f"this filter cannot be used: {why}", where="--where", fix=FIX)
