"""An audit: the share of a version's rows that begin with its most frequent first word."""

from collections import Counter

from pydantic import Field

from graft.data.audits import Audit, Material
from graft.schemas.base import Value
from graft.schemas.sections import Fact, Section


class Options(Value):
    """`graft audit VERSION openings --words 2`."""

    words: int = Field(default=1, ge=1, description="words of an opening")


def run(material: Material, options: Options) -> dict[str, object]:
    """The findings, in any form that the two functions below can read."""
    found = Counter(" ".join(row.text.casefold().split()[: options.words]) for row in material.rows)
    opening, rows = found.most_common(1)[0]
    return {"opening": opening, "share": rows / len(material.rows)}


def sections(found: dict[str, object]) -> list[Section]:
    """The findings for terminal and pages."""
    facts = (Fact("most frequent", found["opening"]), Fact("share of rows", found["share"], "share"))
    return [Section("openings", "Openings", "How texts begin.", facts=facts)]


KIND = Audit("openings of texts", run, sections, dict, Options)
