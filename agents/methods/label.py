"""Label: a person's own texts become rows; models give them labels and write none of their words.

Each text is one slot of the run's first round. Gates come first. Then labelers give calibrated probabilities, whose
mean is the row's soft label; if they disagree, an adjudicator that is not one of them decides. A label that is not
likely enough, or hardly likelier than the next, is none: the text ends as `rejected.unsure` with its best guess, for a
person to review. With `top_up`, labels that are short of the target are filled by that method, whose exemplars are the
seeds and the labelled texts.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from graft.agents.methods.base import Bounds, Calls, Context, Drawn, Method, Place, Prepared, Query, TextSource, Traits
from graft.agents.methods.steps.bounds import Sureness, Trial, with_bounds
from graft.agents.methods.steps.calibrate import Judging, try_judges
from graft.agents.methods.steps.draft import Draft, decided, decision, screened
from graft.agents.methods.steps.draw import pool_of
from graft.agents.methods.steps.relabel import ask_givers, choices, combined, labelers_of, name_judges, unjudged
from graft.agents.methods.steps.sizes import DISPUTES, PROMPT_OVERHEAD, bounds_calls, calibration_calls, sizes
from graft.agents.methods.steps.texts import texts_report
from graft.schemas.base import stable_hash
from graft.schemas.binding import MethodSettings, Role
from graft.schemas.decisions import UNSURE
from graft.schemas.errors import CallFailed
from graft.schemas.kinds import METHODS, OfKind
from graft.schemas.models import LabelerSpec, ModelSpec
from graft.schemas.problems import Finding
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate, Decision, GivenText, Labelling, Seed, Slot
from graft.schemas.sections import Section
from graft.schemas.tasks.base import Label

ROLES = MappingProxyType(
    {"generator": Role(writes=True), "labeler": Role(LabelerSpec), "reviewer": Role(), "adjudicator": Role()}
)
BATCH = 50
JUDGING = Judging(
    roles=("labeler", "adjudicator"), giving=frozenset({"labeler", "adjudicator"}),
    voting=frozenset({"labeler", "adjudicator"}),
)  # fmt: skip


_FILLER = "SELECT json_extract_string(recipe, '$.method.top_up.kind') AS kind FROM lake.runs WHERE id = ?"


def _fills(method: Any) -> bool:
    """Return True if a method may top up: a recipe of this method can name all of its roles."""
    return method.kind != KIND.kind and set(method.roles) <= set(ROLES)


class LabelSettings(Sureness, MethodSettings):
    """Labels for a person's own texts, and rows of another method where texts are missing."""

    kind: Literal["label"] = "label"
    texts: str = Field(min_length=1, description="file of texts without labels, in any format that graft import reads")
    text_column: str | None = Field(default=None, description="column of the texts; null: detected")
    most: int | None = Field(default=None, ge=1, description="texts to label, at most; null: all")
    order: Literal["diverse", "given", "uncertain"] = Field(
        default="diverse",
        description="texts that represent all others best first, or in the file's order; uncertain: half of the "
        "second and later batches are texts that a quick student is least sure of",
    )
    batch: int = Field(
        default=BATCH,
        ge=2,
        exclude_if=lambda texts: texts == BATCH,
        description="texts labelled before the first look, with `order: uncertain` or `margin_of_error`",
    )
    margin_of_error: float | None = Field(
        default=None,
        gt=0,
        lt=0.5,
        exclude_if=lambda margin: margin is None,
        description="stop once the 95% interval of a quick student's held-out accuracy is no wider than this to either "
        "side, such as 0.05; null: label all texts",
    )
    labelers: int = Field(default=3, ge=1, le=16, description="labelers per text, as far as the role has models")
    nearest_classes: int = Field(default=12, ge=2, description="classes that a labeler chooses among, at most")
    adjudicate: bool = Field(
        default=True, description="if labelers disagree, ask a model of the adjudicator role that is not one of them"
    )
    calibration_texts: int = Field(default=40, ge=0, le=1000, description="texts that label calibration averages over")
    top_up: Annotated[MethodSettings, OfKind(METHODS, "Settings", fits=_fills)] | None = Field(
        default=None, description="method that fills labels short of the target; null: the texts alone"
    )

    @property
    def kinds(self) -> Sequence[tuple[Any, str]]:
        """The kinds of `top_up`."""
        return ((METHODS, self.top_up.kind), *self.top_up.kinds) if self.top_up else ()

    @property
    def writing(self) -> frozenset[str]:
        """Those of `top_up`."""
        return self.top_up.writing if self.top_up else frozenset()


class LabelTexts(Method[LabelSettings]):
    """Labels the slots of the first round; hands all later slots to the method of `top_up`."""

    kind = "label"
    Settings = LabelSettings
    roles = ROLES
    prompts = ("label_name", "choice_chat", "choice_chat_turn", "choice_completion")
    needs_seeds = False
    least_score = "top_up.tau"

    def source(self, recipe: Recipe) -> TextSource | None:
        """The recipe's texts; none in a steered round, as the version that it extends has them."""
        settings = self.settings(recipe)
        if recipe.steering is not None:
            return None
        source = TextSource(
            path=settings.texts, field="method.texts", column=settings.text_column, most=settings.most,
            spread=settings.order != "given", each=recipe.limits.shard_rows, uncertain=settings.order == "uncertain",
            margin_of_error=settings.margin_of_error,
        )  # fmt: skip
        return source.model_copy(update={"each": settings.batch}) if source.batches else source

    def inner(self, recipe: Recipe) -> Sequence[Method[Any]]:
        """The method of `top_up`."""
        return (self._filler(recipe),) if self.settings(recipe).top_up else ()

    def versions(self, recipe: Recipe) -> tuple[Any, ...]:
        """Those of the method of `top_up`."""
        return self._filler(recipe).versions(_filled(recipe)) if self.settings(recipe).top_up else ()

    def own_prompts(self, recipe: Recipe) -> tuple[str, ...]:
        """Those of the method of `top_up`."""
        return self._filler(recipe).own_prompts(_filled(recipe)) if self.settings(recipe).top_up else ()

    def writing(self, recipe: Recipe) -> Recipe | None:
        """The recipe under the method of `top_up`."""
        return _filled(recipe) if self.settings(recipe).top_up else None

    def preview(self, recipe: Recipe, rows: int) -> Recipe:
        """So many texts, and as many written rows with `top_up`."""
        settings = self.settings(recipe)
        few = super().preview(recipe, 2 * rows if settings.top_up else rows)
        return few.model_copy(
            update={"method": settings.model_copy(update={"most": rows, "order": "given", "margin_of_error": None})}
        )

    def wanted(self, recipe: Recipe) -> dict[str, int]:
        """The recipe's target with `top_up`, else none: the texts decide."""
        return recipe.wanted() if self.settings(recipe).top_up else {}

    def traits(self, recipe: Recipe) -> Traits:
        """Those of `top_up`; without it no round follows the texts."""
        own: dict[str, Any] = {"repeats_published": True}
        if not self.settings(recipe).top_up:
            return Traits(rounds=0, **own)
        return self._filler(recipe).traits(_filled(recipe)).model_copy(update=own)

    def roles_of(self, recipe: Recipe) -> tuple[str, ...]:
        """The labelers, an adjudicator where a text can have one, and the roles of `top_up`."""
        adjudicator = ("adjudicator",) if _spare(recipe, self.settings(recipe)) else ()
        filler = self._filler(recipe).roles_of(_filled(recipe)) if self.settings(recipe).top_up else ()
        return tuple(dict.fromkeys(("labeler", *adjudicator, *filler)))

    def check(self, recipe: Recipe, seeds: Sequence[Seed] | None) -> list[Finding]:
        """The task is a classification, and the method of `top_up` fits the recipe."""
        if recipe.task.sides or not recipe.task.labelled or recipe.task.needs_response:
            what = "label gives each text one label of a set, so the task must be a classification"
            return [Finding(("method", "kind"), what, "set task.kind: classification with labels, or another method")]
        if not self.settings(recipe).top_up:
            return []
        found = self._filler(recipe).check(_filled(recipe), seeds)
        return [
            dataclasses.replace(one, path=("method", "top_up", *one.path[1:])) if one.path[:1] == ("method",) else one
            for one in found
        ]

    def make_slot(self, place: Place, drawn: Drawn) -> Slot:
        """A text's slot: id and seed follow from its words and the recipe. In later rounds a slot of `top_up`."""
        if not place.round and drawn.texts:
            text = drawn.texts[place.shard * self._each(drawn.recipe) + place.index]
            return Slot(
                id="sl_" + stable_hash(place.run_id, "text", text.id), run_id=place.run_id, shard=place.shard,
                round=0, index=place.index, label="", seed=int(stable_hash(drawn.recipe.seed, text.id), 16) % 2**31,
                payload={"text_id": text.id, "file": text.file, "row": text.row},
            )  # fmt: skip
        own = dataclasses.replace(place, round=place.round - 1) if drawn.texts else place
        slot = self._filler(drawn.recipe).make_slot(own, _filled_drawn(drawn))
        return slot.model_copy(update={"round": place.round})

    async def prepare_seeds(self, context: Context) -> Sequence[Seed]:
        """As the method of `top_up` needs them."""
        if not self.settings(context.recipe).top_up:
            return context.seeds
        return await self._filler(context.recipe).prepare_seeds(_filled_context(context))

    async def prepare(self, context: Context, drawn: Drawn) -> Prepared:
        """Calibrate the labelers on the first texts, which they label anyway; later the judges of `top_up`."""
        if drawn.round or not drawn.texts:
            return await self._filler(context.recipe).prepare(_filled_context(context), _filled_drawn(drawn))
        settings = self.settings(context.recipe)
        first = min(settings.calibration_texts, self._each(drawn.recipe), len(drawn.texts))
        slots = [self.make_slot(Place("", 0, 0, index, ""), drawn) for index in range(first)]

        async def narrow(text: str) -> tuple[Label, ...]:
            return await choices(context, text, settings.nearest_classes)

        prepared = await try_judges(self, context, slots, self._judging(context.recipe), narrow)
        return await with_bounds(prepared, context, settings, self._trial(context.recipe))

    async def propose(self, slot: Slot, context: Context) -> str:
        """The slot's text as its judges read it. Raises CallFailed for a text that no judge will read."""
        if slot.label:
            return await self._filler(context.recipe).propose(slot, _filled_context(context))
        draft = Draft(slot, context, {}, text=_given(slot, context).text)
        if screened(draft):
            raise CallFailed("empty", "a gate refuses the text")
        return draft.text

    async def exemplar(self, candidate: Candidate, context: Context) -> Seed:
        """An accepted row as the method of `top_up` shows it."""
        if not self.settings(context.recipe).top_up:
            return await super().exemplar(candidate, context)
        return await self._filler(context.recipe).exemplar(candidate, _filled_context(context))

    async def run_slot(self, slot: Slot, context: Context) -> Candidate:
        """The labelled text, or the candidate of `top_up`. A reached budget ends it as failed.budget."""
        if slot.label:
            filler = self._filler(context.recipe)
            made = await filler.run_slot(slot, _filled_context(context))
            return made.model_copy(update={"notes": {**made.notes, "method": filler.kind}})
        draft = Draft(slot, context, {}, text=_given(slot, context).text)
        return await decided(draft, _labelled(draft, self.settings(context.recipe)), "The labelers")

    def estimate(self, recipe: Recipe, candidates: int, seeds: Sequence[Seed]) -> tuple[Calls, ...]:
        """The calls of `top_up` for its candidates."""
        if not self.settings(recipe).top_up or not candidates:
            return ()
        return self._filler(recipe).estimate(_filled(recipe), candidates, seeds)

    def estimate_texts(self, recipe: Recipe, texts: Sequence[GivenText], seeds: Sequence[Seed]) -> tuple[Calls, ...]:
        """One call per text and labeler, and an adjudicator's for each dispute; calibration repeats the first texts."""
        settings, (shots, _) = self.settings(recipe), sizes(seeds)
        classes = max(1, len(recipe.task.names))
        _, text = sizes([Seed.of(one.text) for one in texts])
        prompt = PROMPT_OVERHEAD + shots * min(settings.nearest_classes, classes) // classes + text
        judges = min(settings.labelers, len(recipe.models_for("labeler")))
        rows = [("label", "labeler", len(texts) * judges, recipe.role("labeler").answer)]
        if _spare(recipe, settings):
            answer = recipe.role("adjudicator").answer
            rows.append(("adjudicate labels", "adjudicator", math.ceil(len(texts) * DISPUTES), answer))
        made = [
            Calls(
                purpose=purpose, role=role, calls=calls, prompt_tokens=prompt,
                completion_tokens=1 if answer == "logprobs" else 8,
            )
            for purpose, role, calls, answer in rows
        ]  # fmt: skip
        apart = Judging(roles=("adjudicator",), giving=JUDGING.giving) if _spare(recipe, settings) else Judging()
        tried = calibration_calls(recipe, apart, min(settings.calibration_texts, len(texts)), prompt)
        return (*made, *tried, *bounds_calls(recipe, settings, self._trial(recipe), seeds, prompt))

    def report(self, query: Query, run_id: str, counts: Mapping[str, int]) -> Section | None:
        """Outcome of the texts, and the figures of `top_up`."""
        own = texts_report(query, run_id, counts)
        kind = next((row["kind"] for row in query(_FILLER, [run_id])), None)
        more = METHODS.get(kind).report(query, run_id, counts) if kind in METHODS.names else None
        if own is None or more is None:
            return own or more
        return dataclasses.replace(own, text=f"{own.text} {more.text}", tables=(*own.tables, *more.tables))

    def describe(self, slot: Slot, notes: Mapping[str, JsonValue]) -> list[tuple[str, str]]:
        """The place of the text in its file; or the method that wrote the row, and its description."""
        kind = str(notes.get("method"))
        if slot.label and kind in METHODS.names:
            own = {name: value for name, value in notes.items() if name != "method"}
            return [("written by the method", kind), *METHODS.get(kind).describe(slot, own)]
        if slot.label:
            return super().describe(slot, notes)
        return [("text", f"row {slot.payload.get('row')} of {slot.payload.get('file')}")]

    def judged_by_all(self, recipe: Recipe, slot: Slot) -> bool:
        """As the method of `top_up` decides for its rows."""
        return bool(slot.label) and self._filler(recipe).judged_by_all(_filled(recipe), slot)

    def _each(self, recipe: Recipe) -> int:
        source = self.source(recipe)
        assert source is not None, "a run without texts has no slot of one"
        return source.each

    def _judging(self, recipe: Recipe) -> Judging:
        roles = tuple(role for role in JUDGING.roles if role in self.roles_of(recipe))
        return dataclasses.replace(JUDGING, roles=roles)

    def _trial(self, recipe: Recipe) -> Trial:
        settings = self.settings(recipe)

        async def narrow(context: Context, text: str) -> tuple[Label, ...]:
            return await choices(context, text, settings.nearest_classes)

        return Trial(self._judging(recipe), "labeler", settings.labelers, proposed=False, narrow=narrow)

    def _filler(self, recipe: Recipe) -> Method[Any]:
        settings = self.settings(recipe).top_up
        assert settings is not None, "a run without top_up has no slot beyond its texts"
        found: Method[Any] = METHODS.get(settings.kind)
        return found


def _filled(recipe: Recipe) -> Recipe:
    """The recipe as the method of `top_up` reads it."""
    return recipe.model_copy(update={"method": KIND.settings(recipe).top_up})


def _filled_context(context: Context) -> Context:
    return dataclasses.replace(context, recipe=_filled(context.recipe))


def _filled_drawn(drawn: Drawn) -> Drawn:
    return dataclasses.replace(drawn, recipe=_filled(drawn.recipe), texts=(), round=0)


def _given(slot: Slot, context: Context) -> GivenText:
    return context.texts[str(slot.payload["text_id"])]


def _spare(recipe: Recipe, settings: LabelSettings) -> bool:
    """Return True if some text can have an adjudicator: a model that is not one of its labelers."""
    pool = [model.name for model in recipe.models_for("labeler")]
    judges = {model.name for model in recipe.models_for("adjudicator")}
    alone = len(pool) <= settings.labelers
    return settings.adjudicate and bool(judges - set(pool) if alone else judges)


async def _labelled(draft: Draft, settings: LabelSettings) -> Decision:
    """Gates, labels, and whether the label is likely enough."""
    ended = screened(draft)
    if ended:
        return ended
    narrowed = await choices(draft.context, draft.text, settings.nearest_classes)
    labelling = await _judged(draft, settings, [label.name for label in narrowed])
    name_judges(draft)
    guess = labelling.label or next(iter(draft.soft_label), "")
    draft.label = guess
    share = draft.soft_label.get(guess, 0.0)
    doubt = _doubt(settings.bounds(draft.context.bounds), labelling, share)
    draft.labelling = labelling.model_copy(update={"label": "" if doubt else guess})
    if doubt:
        best = f" The best guess is {guess} at {share:.0%}." if guess else ""
        return unjudged(draft) or decision("rejected", "unsure", UNSURE, f"{doubt}.{best}")
    lead = f", {labelling.margin:.0%} ahead of {labelling.second}" if labelling.margin is not None else ""
    reason = f"{labelling.by.capitalize()}: {guess} at {share:.0%}{lead}."
    return decision("accepted", "labelled", "accepted.labelled", reason)


async def _judged(draft: Draft, settings: LabelSettings, names: Sequence[str]) -> Labelling:
    """The labelers' mean distribution and its label; or that of an adjudicator's choosing if they disagree."""
    panel = labelers_of(draft, settings.labelers)
    reviews = await ask_givers(draft, panel, "labeler", names)
    labelling = combined(draft, reviews, names, "labeler", 0.0)
    answers = {review.answer for review in reviews if review.answer in names}
    judge = _adjudicator(draft, settings, panel) if len(answers) > 1 else None
    if judge is None:
        return labelling
    reviews += await ask_givers(draft, [judge], "adjudicator", names)
    return combined(draft, reviews, names, "adjudicator", 0.0, decides=reviews[-1])


def _adjudicator(draft: Draft, settings: LabelSettings, panel: Sequence[ModelSpec]) -> ModelSpec | None:
    taken = {model.name for model in panel}
    free = [model for model in pool_of(draft.context.recipe, "adjudicator") if model.name not in taken]
    if not settings.adjudicate or not free:
        return None
    return random.Random(f"adjudicator-{draft.slot.seed}").choice(free)


def _doubt(least: Bounds, labelling: Labelling, share: float) -> str:
    """The reason for which a label is not sure enough; empty if it is."""
    if not labelling.label:
        return "The judges gave no label of the set, or two were equally likely"
    if share < least.min_probability:
        return f"The label is under the least probability of {least.min_probability:.0%}"
    if least.min_margin and labelling.margin is not None and labelling.margin < least.min_margin:
        return f"{labelling.second} is as likely, or nearly: the lead is under {least.min_margin:.0%}"
    return ""


KIND = LabelTexts()
