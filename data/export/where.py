"""A person's row filter, made safe: it is parsed, its tree checked against a short list, and SQL made of the tree.

The filter's own text never reaches the lake's connection. It may name the columns of ROW_COLUMNS, constants and the
functions of FUNCTIONS; tables, subqueries, parameters, casts and further statements are refused.
"""

from __future__ import annotations

import json
from typing import Any

from data.export.registry import ROW_COLUMNS
from schemas.errors import GraftError

FUNCTIONS = frozenset((
    "length", "strlen", "lower", "upper", "trim", "ltrim", "rtrim", "contains", "starts_with", "ends_with",
    "prefix", "suffix", "regexp_matches", "regexp_full_match", "like_escape", "ilike_escape", "not_like_escape",
    "not_ilike_escape", "~~", "!~~", "~~*", "!~~*", "||", "+", "-", "*", "/", "//", "%", "^@", "left", "right",
    "substring", "substr", "strpos", "instr", "replace", "concat", "hash", "md5", "abs", "round", "coalesce",
    "word_count", "array_length", "levenshtein", "jaccard", "unicode", "ascii",
))  # fmt: skip
CLASSES = frozenset(("CONJUNCTION", "COMPARISON", "OPERATOR", "BETWEEN", "CASE", "CONSTANT", "COLUMN_REF", "FUNCTION"))
HEAD = "SELECT * FROM chosen WHERE "
LONGEST = 10_000
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
    if kind == "FUNCTION" and (node["schema"] or node["catalog"] or node["function_name"].lower() not in FUNCTIONS):
        raise _refused(f"the function {node['function_name']!r} is not allowed in it")
    if kind != "CONSTANT":
        for value in node.values():
            _check(value)


def _refused(why: str) -> GraftError:
    return GraftError(f"this filter cannot be used: {why}", where="--where", fix=FIX)
