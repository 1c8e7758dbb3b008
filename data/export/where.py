"""Makes a user's row filter safe: parses it, checks the tree against an allow-list, and rebuilds SQL from the tree.

The filter's own text never reaches the lake's connection. It may use the columns in ROW_COLUMNS, constants and the
functions in FUNCTIONS; tables, subqueries, parameters, casts and further statements are rejected.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from graft.schemas.errors import GraftError

ROW_COLUMNS = ("id", "text", "response", "label", "split", "source", "restricted")
"""Columns allowed in `--columns` and `--where`."""
FUNCTIONS = frozenset((
    "length", "strlen", "lower", "upper", "trim", "ltrim", "rtrim", "contains", "starts_with", "ends_with",
    "prefix", "suffix", "regexp_matches", "regexp_full_match", "like_escape", "ilike_escape", "not_like_escape",
    "not_ilike_escape", "~~", "!~~", "~~*", "!~~*", "+", "-", "*", "/", "//", "%", "^@", "left", "right",
    "substring", "substr", "strpos", "instr", "position", "hash", "md5", "abs", "round", "unicode", "ascii",
))  # fmt: skip
"""No function returns a longer text than its argument, and each takes at most linear time."""
CLASSES = frozenset(("CONJUNCTION", "COMPARISON", "OPERATOR", "BETWEEN", "CASE", "CONSTANT", "COLUMN_REF", "FUNCTION"))
OPERATORS = frozenset((
    "COMPARE_IN", "COMPARE_NOT_IN", "OPERATOR_NOT", "OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL", "OPERATOR_COALESCE",
))  # fmt: skip
LIKES = {
    "~~": "", "!~~": "", "~~*": "i", "!~~*": "i", "like_escape": "", "not_like_escape": "", "ilike_escape": "i",
    "not_ilike_escape": "i",
}  # fmt: skip
"""The eight forms of LIKE; `i` marks those that ignore case."""
REGEXES = ("regexp_matches", "regexp_full_match")
MOST_FUNCTIONS = 40
"""Maximum function calls in a condition, each of which reads a whole text."""
LARGEST_REGEX = 1_000
"""Maximum characters of a regular expression with repetitions expanded; a class such as \\w counts as 5."""
HEAD = "SELECT * FROM chosen WHERE "
LONGEST = 10_000
WORDS = ("text", "response")
FIX = "one condition over id, text, response, label, split, source, restricted, such as: length(text) > 20"


def safe_where(text: str) -> str:
    """Return the filter as SQL over ROW_COLUMNS, rebuilt from its parsed form.

    Raises GraftError if it is not allowed.
    """
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
        raise _refused(f"it returns {kind}, not true or false")
    return made


def _checked(parser: Any, text: str) -> str:
    """Rebuild a filter whose query differs from one without a filter only in its WHERE clause."""
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
        raise _refused(f"it calls {calls} functions, more than the limit of {MOST_FUNCTIONS}")
    node["where_clause"] = _linear(clause)
    made = str(parser.execute("SELECT json_deserialize_sql(?)", [json.dumps(tree)]).fetchall()[0][0])
    if not made.startswith(HEAD):
        raise _refused("it is more than a condition")
    return made.removeprefix(HEAD)


def _tree(parser: Any, query: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(parser.execute("SELECT json_serialize_sql(?)", [query]).fetchall()[0][0])
    return found


def _unplaced(node: Any) -> Any:
    """The tree without text positions."""
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
            raise _refused("a pattern must be a quoted text")
        if name in REGEXES:
            _check_regex(_constant(node["children"][1]) or "")


def _constant(node: dict[str, Any]) -> str | None:
    """The text of a constant; None if the node is anything else."""
    value = node.get("value") if node.get("class") == "CONSTANT" else None
    known = value is not None and not value["is_null"] and value["type"]["id"] == "VARCHAR"
    return str(value["value"]) if known and value is not None else None


def _check_regex(pattern: str) -> None:
    """Limit a regular expression: RE2 takes time linear in the text times the expression's expanded size."""
    size = len(pattern) + 4 * len(re.findall(r"\\[dDwWsS]|\.|\[", pattern)) + 100 * len(re.findall(r"\\[pPX]", pattern))
    for counts in re.findall(r"\{([\d,]+)\}", pattern):
        size *= max(1, *(int(count[:9] or 1) for count in counts.split(",")))
    if size > LARGEST_REGEX:
        raise _refused("its regular expression is too large: shorten it, or reduce its repetitions")


def _linear(node: Any) -> Any:
    """Replace each LIKE that DuckDB would match by backtracking with a regular expression.

    DuckDB's LIKE takes time exponential in the number of `%` if there is a `_` or an ESCAPE, or if it ignores case.
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
    if LIKES[name]:  # DuckDB's ILIKE lowers the pattern, but not its ESCAPE, before comparing them
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
    """Return a LIKE pattern as a regular expression for a whole text; `escape` is one character or empty."""
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
    """Return the SQL of the columns that a filter may read; unless `restricted`, words of restricted rows are NULL.

    Neither a condition on NULL words nor its negation is true, so a filter reveals nothing about them.
    """
    hidden = () if restricted else WORDS
    return ", ".join(f"CASE WHEN NOT restricted THEN {one} END AS {one}" if one in hidden else one for one in columns)


def _refused(why: str) -> GraftError:
    return GraftError(f"this filter cannot be used: {why}", where="--where", fix=FIX)
