"""Names a student's failures: the subjects of the texts that it gets wrong, in a few words each (SwS, step 1)."""

from __future__ import annotations

from collections.abc import Sequence

from graft.agents.roles.asking import Ask, object_schema, request_for, short_string
from graft.agents.roles.generator import KEYWORD_CHARS, NEWLINE, keywords_in
from graft.schemas.models import ModelSpec
from graft.schemas.recipe import Recipe

MOST = 5
"""Most subjects of one label."""
SHOWN = 6
"""Most texts in one prompt."""


async def name_concepts(
    ask: Ask, recipe: Recipe, model: ModelSpec, label: str, texts: Sequence[str], *, seed: int
) -> tuple[str, ...]:
    """At most MOST subjects of texts of one label, named by a generator. Raises CallFailed.

    The label's own name is left out.
    """
    words = {"type": "array", "items": short_string(model, KEYWORD_CHARS), "minItems": 1, "maxItems": MOST}
    request = request_for(
        "concepts", recipe=recipe, model=model, role="generator", purpose="steer.concepts", seed=seed, stop=NEWLINE,
        schema=object_schema({"keywords": words}) if model.style == "chat" else None, max_tokens=96, most=MOST,
        label=label.replace("_", " "), about=recipe.task.category(label).description, texts=list(texts)[:SHOWN],
    )  # fmt: skip
    named = keywords_in(await ask(request), model)
    own = label.replace("_", " ").casefold()
    return tuple(word for word in named if word.casefold() != own)[:MOST]
