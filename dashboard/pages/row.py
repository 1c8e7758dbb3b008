"""A row: its history, its nearest rows, its fate in each version; and a summary beside the map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from graft.dashboard.context import Page, PageContext, context_of, shades_of, shown
from graft.dashboard.figures import Rows
from graft.dashboard.figures import rows as figures
from graft.dashboard.figures.map import placed
from graft.dashboard.meaning import meaning_of
from graft.dashboard.tables import attachment
from graft.data.explain import explain
from graft.data.provenance import prov
from graft.data.versions import version
from graft.schemas.display import of_data
from graft.schemas.errors import GraftError, NotFound

if TYPE_CHECKING:
    from graft.schemas.datasets import DatasetVersion

NEIGHBOURS = 10
FEW = 4
"""Number of neighbours shown beside the map."""


def row(request: Request) -> Response:
    """A row's history. `?show=1` shows a restricted row, once."""
    context = context_of(request)
    history = explain(context.lake, request.path_params["row_id"], restricted=request.query_params.get("show") == "1")
    datasets = sorted({place["dataset"] for place in history["versions"]} | {history["run"].get("dataset", "")})
    fate = figures.fate(context.lake, datasets, history["id"])
    held = [f"{place['dataset']}@{place['version']}" for place in fate if place["split"]]
    near, note = _neighbours(context, history, list(reversed(held)))
    telling = [
        gate for gate in history["gates"] if not gate["passed"] or gate["neighbour"] or gate["score"] is not None
    ]
    reviewed = held[-1] if held else _rejected_for(context, history)
    review = "/review?" + urlencode({"ref": reviewed, "row": history["id"]}) if reviewed else ""
    return context.page(
        request, "row.html.jinja", f"Row {shown(history['id'])}", row=history, fate=_fates(fate, history), near=near,
        near_note=note, hidden=history["restricted"] and request.query_params.get("show") != "1", held=held,
        review=review if any(page.path == "/review" for page in context.pages) else "", at=address,
        telling=telling, quiet=[gate for gate in history["gates"] if gate not in telling],
        shades=_shades(context, held, history),
    )  # fmt: skip


def brief(request: Request) -> Response:
    """A summary of a row or seed of the version `ref`, as an HTML fragment for the map."""
    context, row_id = context_of(request), request.path_params["row_id"]
    found = version(context.lake, request.query_params.get("ref", ""))
    held = figures.brief(context.lake, found.dataset, found.version, row_id)
    if held is None:
        seed = placed(context.lake, found, (), [row_id]).get(row_id)
        if seed is None:
            raise NotFound(f"{found.ref} holds no row {row_id!r}", where="row id", fix="reload the map")
        nothing = dict.fromkeys(("response", "intended_label", "mean", "spread", "probability", "reason"))
        held = {**seed.model_dump(), **nothing}
    near, _ = _near(context, found, row_id, FEW)
    body = context.templates.get_template("brief.html.jinja").render(row=held, near=near, at=address, ref=found.ref)
    return HTMLResponse(body)


def provenance(request: Request) -> Response:
    """The row's history as W3C PROV-JSON. Restricted text is shown only with `?show=1`."""
    history = explain(
        context_of(request).lake, request.path_params["row_id"], restricted=request.query_params.get("show") == "1"
    )
    return Response(
        orjson.dumps(prov(history), option=orjson.OPT_INDENT_2), media_type="application/json",
        headers=attachment(f"{history['id']}.prov.json"),
    )  # fmt: skip


def address(row_id: str, more: str = "") -> str:
    """The address of a row's page. An imported id may hold any character."""
    return f"/rows/{quote(row_id, safe='')}{more}"


def _shades(context: PageContext, held: list[str], history: dict[str, Any]) -> dict[str, str]:
    """The colours of the labels of the newest version that holds the row."""
    try:
        labels = version(context.lake, held[-1]).labels if held else {}
    except NotFound:
        labels = {}  # deleted meanwhile
    return shades_of(labels, [of_data(history["view"])])


def _rejected_for(context: PageContext, history: dict[str, Any]) -> str:
    """The version that a rejected candidate was made for; people may rescue it there."""
    run = context.lake.run(history["run"]["id"])
    rejected = history["decision"] is not None and history["decision"]["status"] == "rejected"
    return f"{run.dataset}@{run.version}" if rejected and run is not None and run.version else ""


def _neighbours(context: PageContext, history: dict[str, Any], refs: list[str]) -> tuple[Rows, str]:
    """The nearest rows and seeds in the newest embedded version that holds the row, or why there are none."""
    if not refs:
        return [], "Only rows of a version are compared by meaning, and no version holds this row."
    for ref in refs:
        try:
            found = version(context.lake, ref)
        except NotFound:
            continue  # deleted meanwhile
        if meaning_of(context.home).vectors(found) is not None:
            return _near(context, found, history["id"], NEIGHBOURS)
    return [], f"Rows are compared by meaning after embedding: run graft map {refs[0]}, or open its page Map."


def _near(context: PageContext, found: DatasetVersion, row_id: str, count: int) -> tuple[Rows, str]:
    vectors = meaning_of(context.home).vectors(found)
    if vectors is None:
        return [], ""
    try:
        near = vectors.nearest(row_id, count)
    except GraftError as error:
        return [], f"{error.what}. {error.fix}".strip()
    ids = [one.id for one in near if one.kind == "row"]
    known = placed(context.lake, found, ids, [one.id for one in near if one.kind == "seed"])
    return [
        {"cosine": one.cosine, "kind": one.kind, "id": one.id, "label": known[one.id].label,
         "restricted": known[one.id].restricted, "text": known[one.id].text}
        for one in near if one.id in known
    ], found.ref  # fmt: skip


def _fates(fate: Rows, history: dict[str, Any]) -> Rows:
    """The row's fate in each version, as a clause."""
    begun = history["run"].get("started_at") or ""
    for place in fate:
        label = place["label"]
        if place["split"]:
            state = f"held, in {place['split']}" + (f", as {label}" if label != history["label"] else "")
        elif place["gate"]:
            state = f"dropped by {place['gate']}: {place['rule']}"
        elif place["created_at"].isoformat() < str(begun):
            state = "not created yet"
        elif (decision := history["decision"]) and decision["status"] != "accepted":
            state = f"not in it: {decision['status']} ({decision['code']})"
        else:
            state = "not in it"
        place["ref"], place["state"] = f"{place['dataset']}@{place['version']}", state
    return fate


PAGES = (
    Page("/rows/{row_id:path}/brief", "brief", brief, plain=None),
    Page("/rows/{row_id:path}/prov.json", "provenance", provenance, plain=None),
    Page("/rows/{row_id:path}", "row", row),
)
