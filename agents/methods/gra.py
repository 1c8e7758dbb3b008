"""GRA: Generator, Reviewer, Adjudicator (arXiv 2504.12322, section 3), for instructions and for (text, label) rows.

The models are drawn per slot. Cheap checks come first: gates run before reviews, flags before responses, and
reviews end once the outcome is settled. A model's failure never raises: it becomes the candidate's decision.

With `texts_per_call: k` the slots of a group share one call that writes k texts for a label, and each takes its own.
With `responses: k` an instruction has a group of k slots. They share random seed, exemplars, and so the calls for
keywords, instruction and flags, which are made once; each writes and reviews a response of its own. The best accepted
one of a group stays accepted, the others end as `rejected.not_best`: a better response does not make them wrong, so
they are not used as negatives (students.instruct.data).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydantic import JsonValue

from graft.agents.methods.base import Calls, Context, Drawn, Method, Place, Prepared, Query, Traits
from graft.agents.methods.steps.bounds import Trial, with_bounds
from graft.agents.methods.steps.calibrate import calibrated
from graft.agents.methods.steps.draft import Draft, decided, decision, failure, screened
from graft.agents.methods.steps.draw import (
    GraSettings,
    Roles,
    draw_roles,
    make_slot,
    pool_of,
    reviewer_count,
    slot_id,
    steered,
)
from graft.agents.methods.steps.panel import all_failed, ask_all, review_content, review_label
from graft.agents.methods.steps.policy import ROLES, YIELDS, judging, label_report, roles_under, share_under
from graft.agents.methods.steps.relabel import relabel_by_reviewers
from graft.agents.methods.steps.sizes import (
    ASSUMED_DISPUTES,
    DISPUTES,
    PROMPT_OVERHEAD,
    bounds_calls,
    calibration_calls,
    panel_calls,
    sizes,
)
from graft.agents.methods.steps.writing import (
    EXAMPLES,
    TRIES,
    attribute_table,
    manner_of,
    one_of_several,
    proposed,
    with_attributes,
)
from graft.agents.roles import generator, reviewer
from graft.agents.roles.summariser import prepare_seeds, summarise
from graft.schemas.binding import Role
from graft.schemas.errors import BudgetExhausted, CallFailed
from graft.schemas.models import ModelSpec
from graft.schemas.problems import Finding
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Accepted, Candidate, Decision, Review, Seed, Slot
from graft.schemas.sections import Section


class Gra(Method[GraSettings]):
    """Turns one slot into one decided candidate."""

    kind = "gra"
    Settings = GraSettings
    roles = MappingProxyType({"generator": Role(writes=True), "reviewer": Role(), "adjudicator": Role()})
    prompts = (
        "text", "texts", "attributes", "steered", "keywords", "instruction", "response", "review_flags",
        "review_response", "review_text", "choice_chat", "choice_chat_turn", "choice_completion", "label_name",
        "seed_domain", "seed_keywords", "seed_summary",
    )  # fmt: skip
    group_shares_text = True
    keeps_one_of_group = True
    least_score = "tau"
    version = 3

    def traits(self, recipe: Recipe) -> Traits:
        """Rounds, duplicates by cosine, and a yield that falls with the number of responses to one instruction."""
        settings = self.settings(recipe)
        share = {policy: share_under(recipe, settings, policy) for policy in ROLES}
        assumed = sum(share[policy] * YIELDS[policy] for policy in ROLES) or YIELDS["agreeing"]
        return Traits(
            rounds=settings.rounds, max_cosine=settings.max_cosine,
            assumed_yield=assumed if recipe.task.labelled else assumed / settings.responses,
            together=settings.texts_per_call if recipe.task.labelled else 1, agreement_after=settings.agreement_after,
            assumptions=(ASSUMED_DISPUTES,) if share["agreeing"] else (),
        )  # fmt: skip

    def roles_of(self, recipe: Recipe) -> tuple[str, ...]:
        """The generator, and the judges that the label policy needs."""
        return roles_under(recipe, self.settings(recipe))

    def check(self, recipe: Recipe, seeds: Sequence[Seed] | None) -> list[Finding]:
        """A seed for each label; it does not support labelled rows with a response (imported rows may have one)."""
        problems = [
            *super().check(recipe, seeds),
            *(_policy_problems(recipe, self.settings(recipe)) if seeds is None else ()),
        ]
        if seeds is not None and recipe.task.labelled and recipe.task.needs_response:
            what = f"method {self.kind!r} makes no labelled rows with a response"
            fix = "set with_response: false: rows hold the prompt alone; or use a method that writes responses"
            problems.append(Finding(("task", "with_response"), what, fix))
        return problems

    def make_slot(self, place: Place, drawn: Drawn) -> Slot:
        """A slot with `few_shot` exemplars of its label; in a group if an instruction has several responses."""
        settings, parts = self.settings(drawn.recipe), self._parts(drawn.recipe)
        few_shot, attributes = settings.few_shot, {**drawn.attributes, **settings.attributes}
        if parts == 1:
            return with_attributes(make_slot(place, drawn, *few_shot), attributes)
        part = place.index % parts
        first = dataclasses.replace(place, index=place.index - part)
        slot = make_slot(first, drawn, *few_shot)
        steer = steered(drawn.recipe, dataclasses.replace(first, index=first.index // parts), slot.seed)
        own = {"id": slot_id(place), "index": place.index, "group": slot.id, "part": part, "steer": steer}
        return with_attributes(slot.model_copy(update=own), attributes)

    async def prepare_seeds(self, context: Context) -> Sequence[Seed]:
        """Instructions get their domain, keywords and summary; so do the rows that a steered round shows."""
        if context.recipe.task.labelled:
            return context.seeds
        steering, most = context.recipe.steering, self.settings(context.recipe).max_keywords
        shown = [Seed.of(row.text, row.label, row.response) for row in steering.exemplars] if steering else []
        known = {seed.id for seed in context.seeds}
        seeds = [*context.seeds, *(seed for seed in shown if seed.id not in known)]
        return await prepare_seeds(context.ask, context.recipe, seeds, most=most)

    async def prepare(self, context: Context, drawn: Drawn) -> Prepared:
        """Let the generator propose attributes, unless the run has some, and calibrate the judges of labels."""
        settings, found, notes = self.settings(context.recipe), drawn.attributes, ""
        if settings.propose_attributes and not found:
            found, notes = await proposed(context, drawn, settings.propose_attributes)
            context = dataclasses.replace(context, attributes=found)
            drawn = dataclasses.replace(drawn, attributes=found)
        judged = judging(context.recipe, settings)
        ready = await calibrated(self, context, drawn, judged, settings.calibration_texts)
        ready = await with_bounds(ready, context, settings, self._trial(context.recipe))
        return dataclasses.replace(ready, attributes=found, notes=(notes,) if notes else ())

    async def exemplar(self, candidate: Candidate, context: Context) -> Seed:
        """An accepted row as an exemplar: an instruction with its keywords and a summary."""
        if context.recipe.task.labelled:
            return await super().exemplar(candidate, context)
        most = self.settings(context.recipe).max_keywords
        return await summarise(context.ask, context.recipe, candidate, most=most)

    async def propose(self, slot: Slot, context: Context) -> str:
        """The text that the slot's generator writes."""
        settings = self.settings(context.recipe)
        model = draw_roles(context.recipe, slot, settings).generator
        if slot.group:
            return await one_of_several(slot, context, settings, model)
        manner = manner_of(slot.payload.get("attributes"))
        return (await generator.write_text(context.ask, context.recipe, model, slot, manner))[0]

    async def run_slot(self, slot: Slot, context: Context) -> Candidate:
        """The decided candidate. A reached budget ends it as failed.budget."""
        settings = self.settings(context.recipe)
        roles = draw_roles(context.recipe, slot, settings)
        labelled = context.recipe.task.labelled
        played = ROLES[settings.policy(slot.label) if labelled else "agreeing"]
        draft = Draft(
            slot, context, {role: name for role, name in roles.names().items() if role in played},
            thorough=self.judged_by_all(context.recipe, slot),
        )  # fmt: skip
        run = _labelled_text if labelled else _instruction
        return await decided(draft, run(draft, roles, settings), "The generator")

    def estimate(self, recipe: Recipe, candidates: int, seeds: Sequence[Seed]) -> tuple[Calls, ...]:
        """One text and its reviews per candidate; for instructions the steps of the paper, the first of them once per
        group."""
        settings, (shots, text) = self.settings(recipe), sizes(seeds)
        reviewers = settings.reviewers
        if not recipe.task.labelled:
            return _instruction_calls(recipe, candidates, len(seeds), reviewers, self._parts(recipe))
        shown = PROMPT_OVERHEAD + shots // max(1, len(recipe.wanted()))
        judged = PROMPT_OVERHEAD + shots + text
        each, named = settings.texts_per_call, 8 * (len(settings.attributes) + settings.propose_attributes)
        made = Calls(
            purpose="generate", role="generator", calls=math.ceil(candidates / each),
            prompt_tokens=shown + each * named, completion_tokens=each * (text + 4),
        )  # fmt: skip
        tried = calibration_calls(recipe, judging(recipe, settings), settings.calibration_texts, judged)
        agreeing = math.ceil(candidates * share_under(recipe, settings, "agreeing"))
        relabelled = math.ceil(candidates * share_under(recipe, settings, "relabelled")) * reviewers
        labels = Calls(
            purpose="label", role="reviewer", calls=relabelled, prompt_tokens=judged, completion_tokens=1
        )  # fmt: skip
        plan = Calls(
            purpose="propose attributes", role="generator", calls=int(settings.propose_attributes > 0),
            prompt_tokens=PROMPT_OVERHEAD + EXAMPLES * text, completion_tokens=100,
        )  # fmt: skip
        judges = (*panel_calls(recipe, reviewers, agreeing, judged), labels)
        bounds = bounds_calls(recipe, settings, self._trial(recipe), seeds, judged)
        return (made, *(calls for calls in (plan, *judges) if calls.calls), *tried, *bounds)

    def report(self, query: Query, run_id: str, counts: Mapping[str, int]) -> Section | None:
        """Label policy, the judges' probabilities of the intended labels, and the attributes of the texts."""
        section, table = label_report(query, run_id, counts), attribute_table(query, run_id)
        if table is None:
            return section
        section = section or Section("labels", "Texts", "Each text was written with attributes.")
        return dataclasses.replace(section, tables=(*section.tables, table))

    def _trial(self, recipe: Recipe) -> Trial:
        settings = self.settings(recipe)
        size = reviewer_count(recipe, settings)
        return Trial(judging(recipe, settings), "reviewer", size, proposed=True)

    def _parts(self, recipe: Recipe) -> int:
        """Slots of one group: the responses to one instruction, or the texts of one call."""
        settings = self.settings(recipe)
        return settings.texts_per_call if recipe.task.labelled else settings.responses

    def judged_by_all(self, recipe: Recipe, slot: Slot) -> bool:
        """The first slots of each label, half as many again as are needed, if two models may review them."""
        settings = self.settings(recipe)
        labels = max(1, sum(wanted > 0 for wanted in recipe.wanted().values()))
        judged = not recipe.task.labelled or settings.policy(slot.label) == "agreeing"
        several = min(settings.reviewers, len({model.name for model in pool_of(recipe, "reviewer")})) > 1
        first = slot.shard == 0 and slot.index - slot.part < math.ceil(1.5 * settings.agreement_after / labels)
        return judged and several and first

    def text_id(self, row: Candidate | Accepted) -> str:
        """As of every method, but that only rows with responses share a text: those of labels share a call alone."""
        return row.id if row.response is None else super().text_id(row)

    def one_of(self, row: Candidate | Accepted) -> str:
        """The group of an instruction's responses; rows of labels may all be accepted."""
        return "" if row.response is None else super().one_of(row)

    def describe(self, slot: Slot, notes: Mapping[str, JsonValue]) -> list[tuple[str, str]]:
        """The attributes that were drawn: named by the recipe, or by a model for a task without restricted rows."""
        manner = manner_of(slot.payload.get("attributes"))
        return [("written as", manner)] if manner else []


def _instruction_calls(recipe: Recipe, candidates: int, seeds: int, reviewers: int, parts: int) -> tuple[Calls, ...]:
    response, written = min(recipe.role("generator").max_tokens, 300), math.ceil(candidates / parts)
    rows = (
        ("prepare seeds", "generator", 3 * seeds, 250, 40),
        ("keywords", "generator", written, 200, 30),
        ("instruction", "generator", written, 350, 80),
        ("review instruction", "reviewer", written * reviewers, 300, 20),
        ("respond", "generator", candidates, 150, response),
        ("review response", "reviewer", candidates * reviewers, 400 + response, 80),
        ("adjudicate", "adjudicator", math.ceil(candidates * DISPUTES), 800 + response, 80),
    )
    return tuple(
        Calls(purpose=purpose, role=role, calls=calls, prompt_tokens=prompt, completion_tokens=completion)
        for purpose, role, calls, prompt, completion in rows
    )


async def _labelled_text(draft: Draft, roles: Roles, settings: GraSettings) -> Decision:
    """Classification and guard: write, gate, and review or label as the policy of the slot's label says."""
    draft.text = await KIND.propose(draft.slot, draft.context)
    if not draft.text:
        reason = f"{roles.generator.name} gave fewer than {settings.texts_per_call} new texts, {TRIES} times."
        return failure("few_texts", reason)
    ended = screened(draft)
    if ended:
        return ended
    policy = settings.policy(draft.slot.label)
    if policy == "agreeing":
        return await review_label(draft, roles, settings)
    if policy == "relabelled":
        return await relabel_by_reviewers(draft, roles, settings)
    reason = f"It keeps its intended label {draft.slot.label}: this label policy calls no judge."
    return decision("accepted", "intended", "accepted.intended", reason)


def _policy_problems(recipe: Recipe, settings: GraSettings) -> list[Finding]:
    given = settings.label_policy
    varied = bool(settings.attributes or settings.propose_attributes)
    if settings.propose_attributes and recipe.task.has_restricted:
        what = "attributes that a model proposes are shown, and rows of this task are restricted"
        return [Finding(("method", "propose_attributes"), what, "list them under method.attributes")]
    if not recipe.task.labelled and (settings.texts_per_call > 1 or varied):
        name = "attributes" if varied else "texts_per_call"
        what = f"only tasks with labels have {name}: an instruction is made from keywords"
        return [Finding(("method", name), what, f"leave {name} out; responses: k writes several responses")]
    if given != "agreeing" and not recipe.task.labelled:
        fix = "leave label_policy out, or use a task with labels"
        return [Finding(("method", "label_policy"), f"task {recipe.task.kind!r} has no labels to judge", fix)]
    unknown = [label for label in given if label not in recipe.task.names] if not isinstance(given, str) else []
    fix = f"name one of: {', '.join(recipe.task.names)}"
    return [Finding(("method", "label_policy", label), f"{label!r} is no label of the task", fix) for label in unknown]


async def _instruction(draft: Draft, roles: Roles, settings: GraSettings) -> Decision:
    """Steps 1 to 8 of the paper's loop; flags are in before any response is paid for."""
    slot, recipe, ask = draft.slot, draft.context.recipe, draft.context.ask
    most = settings.max_keywords
    draft.keywords, _ = await generator.write_keywords(ask, recipe, roles.generator, slot, most=most)
    draft.text, _ = await generator.write_instruction(ask, recipe, roles.generator, slot, draft.keywords)
    ended = screened(draft) or await _flagged(draft, roles, settings)
    if ended:
        return ended
    ended = await _answered(draft, roles, settings)
    better = await _better(draft, roles, settings, ended.mean or 0.0) if ended.status == "accepted" else None
    if better is None:
        return ended
    reason = f"{ended.reason} Response {better + 1} to the same instruction is kept instead: it was scored no lower."
    return ended.model_copy(update={"status": "rejected", "code": "rejected.not_best", "reason": reason})


async def _answered(draft: Draft, roles: Roles, settings: GraSettings) -> Decision:
    """Write, gate and review the response of the draft's slot."""
    slot, recipe, ask = draft.slot, draft.context.recipe, draft.context.ask
    draft.response, _ = await generator.write_response(ask, recipe, roles.generator, slot, draft.text)
    judged: dict[str, Any] = {
        "recipe": recipe, "slot": slot, "instruction": draft.text, "response": draft.response,
    }  # fmt: skip

    async def review(model: ModelSpec, sample: int) -> Review:
        return await reviewer.review_response(ask, model=model, sample=sample, **judged)

    async def settle(prior: Sequence[Review]) -> Review:
        return await reviewer.adjudicate_response(ask, model=roles.adjudicator, prior=prior, **judged)

    return screened(draft) or await review_content(draft, roles, settings, review, settle)


async def _better(draft: Draft, roles: Roles, settings: GraSettings, mean: float) -> int | None:
    """The part of the group's better accepted response; None if the draft's own is the best.

    The higher mean is better, of equals the earlier part. The calls of the other parts are those of their own slots, so
    they are made once and every slot of the group finds the same best. Raises BudgetExhausted.
    """
    slot = draft.slot
    others = range(settings.responses) if slot.group else range(0)
    best, highest = slot.part, mean
    for part in (part for part in others if part != slot.part):
        other = Draft(
            slot.model_copy(update={"part": part}), draft.context, draft.models, text=draft.text,
            thorough=draft.thorough,
        )  # fmt: skip
        try:
            ended = await _answered(other, roles, settings)
        except BudgetExhausted:
            raise
        except CallFailed:
            continue  # that slot ends as failed by the same call
        if ended.status == "accepted" and (ended.mean or 0.0, -part) > (highest, -best):
            best, highest = part, ended.mean or 0.0
    return None if best == slot.part else best


async def _flagged(draft: Draft, roles: Roles, settings: GraSettings) -> Decision | None:
    """Rejection by any 0 flag of any reviewer, or a failure if no reviewer gave flags."""
    context, size = draft.context, len(roles.reviewers)

    async def review(model: ModelSpec, sample: int) -> Review:
        return await reviewer.review_instruction(
            context.ask, recipe=context.recipe, model=model, slot=draft.slot, instruction=draft.text, sample=sample
        )

    def over(given: Sequence[Review]) -> bool:
        return any(0 in one.flags.values() for one in given)

    reviews = await ask_all(draft, roles, review, over, early=settings.early_exit)
    for one in reviews:
        missing = [name for name, value in one.flags.items() if value == 0]
        if missing:
            calls = f"{len(reviews)} of {size} reviewers called"
            reason = f"{one.model} gave the instruction 0 for {', '.join(missing)} ({calls}); no response was paid for."
            return decision("rejected", "flag", "rejected.flag", reason)
    return all_failed(reviews)


KIND = Gra()
