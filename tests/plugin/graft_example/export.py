"""An export format: one line per row, label and text with a tab between them."""

from graft.data.export import Format
from graft.data.export.formats.base import Columns, Params, Source


def columns(source: Source, params: Params) -> Columns:
    """Column name to SQL over a row; values of a person's go through `params`, never into the SQL."""
    return {"line": "label || chr(9) || regexp_replace(text, '\\s+', ' ', 'g')"}


KIND = Format("tsv", "label, tab, text: one line per row", "lines", columns, suffix="tsv")
