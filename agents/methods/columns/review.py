"""The step `review`: GRA's panel over named columns, with the recipe's own rubric (arXiv 2504.12322, section 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, StringConstraints, model_validator

from graft.agents.methods.base import Calls
from graft.agents.methods.columns.ask import writers
from graft.agents.methods.columns.base import Ended, State, Step, rejected, share_of
from graft.agents.methods.columns.parts.expressions import Expression, Path, compiled
from graft.agents.methods.columns.parts.functions import shown
from graft.agents.methods.columns.parts.shapes import ANY, NUMBER, Shape, walk
from graft.agents.methods.columns.parts.templates import tags_of
from graft.agents.methods.steps.draft import Draft
from graft.agents.methods.steps.draw import Committee, Roles, draw_roles
from graft.agents.methods.steps.panel import review_content
from graft.agents.methods.steps.sizes import panel_calls
from graft.agents.roles import reviewer
from graft.schemas.calls import CallRequest, Reply
from graft.schemas.models import ModelSpec
from graft.schemas.problems import Finding, field_error
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Decision, Review, Seed

TEMPLATE = "review_columns"
MOST_CRITERIA = 12
Criterion = Annotated[str, StringConstraints(min_length=1, max_length=500, strip_whitespace=True)]


class ReviewStep(Step):
    """Reviewers score columns from 0 to 10 in each dimension of a rubric; if they disagree, an adjudicator decides."""

    kind: Literal["review"] = "review"
    of: tuple[Expression, ...] = Field(min_length=1, max_length=8, description="what is shown to the reviewers")
    rubric: dict[str, Criterion] = Field(max_length=MOST_CRITERIA, description="dimension to what deserves a 10")
    reviewers: int = Field(default=3, ge=1, le=16, description="size of the committee")
    tau: float = Field(default=8.0, ge=0, le=10, description="least mean score that is accepted")
    delta: float = Field(default=1.5, ge=0, le=10, description="standard deviation above which to adjudicate")
    early_exit: bool = Field(default=True, description="stop calling reviewers once the outcome is settled")
    keep: Literal["all", "best"] = Field(
        default="all", description="best: `of` names an ask of several samples; the best one passes"
    )

    calls_models = True
    decides = True

    @model_validator(mode="after")
    def _rubric(self) -> ReviewStep:
        wrong = [name for name in self.rubric if not name.isidentifier() or name == "comment"]
        if not self.rubric:
            raise field_error(
                ("rubric",), "the rubric is empty", "name what reviewers score: {clear: it is easy to read}"
            )
        if wrong:
            fix = "use letters, digits and underscore; comment is taken"
            raise field_error(("rubric", wrong[0]), f"{wrong[0]!r} is no name of a dimension", fix)
        return self

    def sentences(self) -> tuple[str, ...]:
        """See Step."""
        return tuple(self.rubric.values())

    def expressions(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """See Step."""
        yield from super().expressions()
        for at, one in enumerate(self.of):
            yield ("of", at), one

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        """An object: mean, scores; with the best sample its place and the sample."""
        fields = {"mean": NUMBER, "scores": Shape("any", plain=True)}
        if self.keep == "best":
            root = shapes.get(self.root, ANY)
            fields |= {"place": NUMBER, "sample": root.item or ANY}
        return Shape("object", fields=fields)

    @property
    def root(self) -> str:
        """The column of several samples, of which the best is kept: the first that `of` names."""
        return str((compiled(self.of[0]).path or ("",))[0])

    def problem(self, shapes: Mapping[str, Shape]) -> list[Finding]:
        """The best is one of several samples."""
        path = compiled(self.of[0]).path
        found = walk(shapes.get(self.root, ANY), path[1:]) if path else ANY
        if self.keep == "all" or (isinstance(found, Shape) and found.type in ("list", "any") and path):
            return []
        return [
            Finding(("of", 0), "the best is chosen of several samples", "name a column of an ask with n: 2 or more")
        ]

    def check(self, recipe: Recipe) -> list[Finding]:
        """Both judges have models that write scores."""
        return [
            Finding(("reviewers",), f"no model can play the {role}", f"name a chat model under roles.{role}")
            for role in self.roles() if not writers(recipe, role)
        ]  # fmt: skip

    def roles(self) -> tuple[str, ...]:
        """See Step."""
        return ("reviewer", "adjudicator")

    def estimate(self, recipe: Recipe, candidates: int, seeds: Sequence[Seed]) -> tuple[Calls, ...]:
        """The committee's calls, and the adjudicator's."""
        prompt = 300 + share_of(list(self.rubric.values()))
        scored = recipe.model_copy(update={"roles": {**recipe.roles, "reviewer": _scores(recipe)}})
        return panel_calls(scored, self.reviewers, candidates, prompt)

    async def run(self, state: State) -> JsonValue:
        """The scores of the row, or of its best sample. Raises Ended unless it is accepted."""
        committee = Committee(
            reviewers=self.reviewers, tau=self.tau, delta=self.delta, early_exit=self.early_exit
        )  # fmt: skip
        roles = draw_roles(scoring(state.recipe), state.slot, committee)
        state.draft.models |= {role: name for role, name in roles.names().items() if role in self.roles()}
        values = [state.value(one, self.name) for one in self.of]
        if self.keep == "all":
            ended, draft = await self._judged(state, roles, committee, values)
            return self._settled(state, ended, draft, {})
        samples = state.columns.get(self.root)
        count = len(samples) if isinstance(samples, list) else 0
        best: tuple[float, Decision, Draft, int] | None = None
        for at in range(count):
            own = [one[at] if isinstance(one, list) and len(one) == count else one for one in values]
            ended, draft = await self._judged(state, roles, committee, own)
            rank = (ended.status == "accepted", ended.mean or 0.0)
            if best is None or rank > (best[1].status == "accepted", best[0]):
                best = (ended.mean or 0.0, ended, draft, at)
        if best is None or not isinstance(samples, list):
            raise rejected(self, "no_sample", f"there is no sample of {self.root} to review.")
        return self._settled(state, best[1], best[2], {"place": best[3], "sample": samples[best[3]]})

    def _settled(self, state: State, ended: Decision, draft: Draft, more: dict[str, JsonValue]) -> JsonValue:
        state.draft.reviews.extend(draft.reviews)
        if ended.status != "accepted":
            raise Ended(ended.model_copy(update={"reason": f"Step {self.name}: {ended.reason}"}))
        state.verdict = ended
        scores = next((one.scores for one in reversed(draft.reviews) if one.scores), {})
        return {"mean": ended.mean, "scores": dict(scores), **more}

    async def _judged(
        self, state: State, roles: Roles, committee: Committee, values: Sequence[Any]
    ) -> tuple[Decision, Draft]:
        """The panel's decision on these values, and a draft that holds its reviews."""
        draft = dataclasses.replace(state.draft, reviews=[], gates=[])
        tags = tags_of(state.tags)
        shown_to = "\n".join(
            f"<{tag}>\n{tags.sub('‹', shown(value))}\n</{tag}>"
            for tag, value in zip(map(_tag, self.of), values, strict=True)
        )
        rubric = [{"name": name, "meaning": meaning} for name, meaning in self.rubric.items()]
        judged: dict[str, Any] = {
            "recipe": state.recipe, "slot": state.slot, "rubric": rubric, "material": shown_to,
            "noun": state.recipe.task.noun,
        }  # fmt: skip

        async def ask(request: CallRequest) -> Reply:
            kind = "review" if request.role == "reviewer" else "adjudicate"
            return await draft.context.ask(request.model_copy(update={"purpose": f"{kind}.{self.name}"}))

        async def review(model: ModelSpec, sample: int) -> Review:
            return await reviewer.score(
                ask, TEMPLATE, list(self.rubric), model=model, role="reviewer", sample=sample, **judged
            )

        async def settle(prior: Sequence[Review]) -> Review:
            return await reviewer.score(
                ask, TEMPLATE, list(self.rubric), model=roles.adjudicator, role="adjudicator", prior=prior, **judged
            )

        return await review_content(draft, roles, committee, review, settle), draft


def scoring(recipe: Recipe) -> Recipe:
    """The recipe without encoders, and with reviewers that give scores: what a panel over columns can use."""
    models = tuple(model for model in recipe.models if model.provider != "encoder")
    return recipe.model_copy(update={"models": models, "roles": {**recipe.roles, "reviewer": _scores(recipe)}})


def _scores(recipe: Recipe) -> Any:
    return recipe.role("reviewer").model_copy(update={"answer": "scores"})


def _tag(expression: str) -> str:
    path: Path | None = compiled(expression).path
    return ".".join(map(str, path)) if path else "value"


KIND = ReviewStep
