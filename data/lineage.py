"""OpenLineage events of a version: the run that made it, its inputs and outputs."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from graft.data.documents.kept import of_run
from graft.data.versions import version as find_version
from graft.data.withdrawn import Selector, touched
from graft.schemas.datasets import DatasetVersion, Row, Run

if TYPE_CHECKING:
    from graft.data.lake import Lake

PRODUCER = "urn:graft:graft-factory"
SPEC = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
FACETS = "https://openlineage.io/spec/facets"
NAMESPACE = "graft"
TEXT_COLUMNS = ("text", "response", "label")
_IDS = uuid.UUID("6f1f9a52-0d8e-5f0a-9a53-4f2b8f1c7d10")
"""Namespace of our ids: the same version always has the same run id."""


def lineage(lake: Lake, found: DatasetVersion) -> list[dict[str, Any]]:
    """Return the START and COMPLETE events of a version, oldest first.

    Inputs are the seeds' file or the imported one, documents, the parent version and the models. The times of a version
    made by a run are the run's; otherwise both are the version's own.
    """
    run = lake.run(found.run_id)
    made_by_run = found.origin in ("run", "trial", "import") and run is not None
    started = run.started_at if run and made_by_run else found.created_at
    ended = (run.ended_at or found.created_at) if run and made_by_run else found.created_at
    inputs = _inputs(lake, found, run)
    shared = {
        "run": {"runId": str(uuid.uuid5(_IDS, f"{found.dataset}/{found.version}/{found.run_id}"))},
        "job": {"namespace": NAMESPACE, "name": f"{found.dataset}.{found.origin}"},
        "inputs": inputs,
        "producer": PRODUCER,
        "schemaURL": SPEC,
    }
    start = {"eventType": "START", "eventTime": started.isoformat(), **shared, "outputs": []}
    complete = {"eventType": "COMPLETE", "eventTime": ended.isoformat(), **shared}
    return [start, {**complete, "outputs": [_output(lake, found, inputs)]}]


def _inputs(lake: Lake, found: DatasetVersion, run: Run | None) -> list[dict[str, Any]]:
    if found.parent is not None:
        parent = find_version(lake, f"{found.dataset}@{found.parent}")
        return [_dataset(NAMESPACE, found.dataset, schema=_schema(), version=_facet_version(parent))]
    seeds = (run.recipe.get("seeds") or {}) if run else {}
    file = (run.recipe_file if run and found.origin == "import" else seeds.get("path")) or ""
    inputs = [_dataset("file", str(file), schema=_schema())] if file else []
    if seeds.get("rows"):
        inputs.append(_dataset("file", f"{run.recipe_file if run else found.dataset}#seeds", schema=_schema()))
    inputs += [
        _dataset("file", one.file, version=_facet("DatasetVersionDatasetFacet", datasetVersion=one.hash))
        for one in (of_run(lake, run.id) if run else ())
    ]
    models = [name for name in found.licences if touched(lake, Selector("model", name), [found.run_id])]
    return inputs + [_dataset("model", name) for name in models]


def _output(lake: Lake, found: DatasetVersion, inputs: list[dict[str, Any]]) -> dict[str, Any]:
    counts = ", ".join(f'count(*) - count("{name}"), count(DISTINCT "{name}")' for name in TEXT_COLUMNS)
    query = f"SELECT [{counts}] AS counts FROM lake.version_rows WHERE dataset = ? AND version = ?"
    numbers = lake.query(query, [found.dataset, found.version])[0]["counts"]
    metrics = {
        name: {"nullCount": numbers[2 * place], "distinctCount": numbers[2 * place + 1]}
        for place, name in enumerate(TEXT_COLUMNS)
    }
    made = _dataset(NAMESPACE, found.dataset, schema=_schema(), version=_facet_version(found))
    quality = _facet("DataQualityMetricsDatasetFacet", rowCount=found.rows, columnMetrics=metrics)
    made["facets"] |= {"dataQualityMetrics": quality, "columnLineage": _columns(found, inputs)}
    statistics = _facet("OutputStatisticsOutputDatasetFacet", rowCount=found.rows)
    return {**made, "outputFacets": {"outputStatistics": statistics}}


def _columns(found: DatasetVersion, inputs: list[dict[str, Any]]) -> dict[str, Any]:
    """Words of a derived version are its parent's; those of a run are written after the seeds, not copied."""
    kept = found.parent is not None or found.origin == "import"
    kind = {"type": "DIRECT", "subtype": "IDENTITY"} if kept else {"type": "INDIRECT", "subtype": "CONDITIONAL"}
    sources = [one for one in inputs if one["namespace"] != "model"]
    fields = {
        name: {
            "inputFields": [
                {"namespace": one["namespace"], "name": one["name"], "field": name, "transformations": [kind]}
                for one in sources
            ]
        }
        for name in TEXT_COLUMNS
    }
    return _facet("ColumnLineageDatasetFacet", fields=fields)


def _dataset(namespace: str, name: str, **facets: dict[str, Any]) -> dict[str, Any]:
    return {"namespace": namespace, "name": name, "facets": facets}


def _schema() -> dict[str, Any]:
    fields = [{"name": name, "type": "BOOLEAN" if name == "restricted" else "VARCHAR"} for name in Row.model_fields]
    return _facet("SchemaDatasetFacet", fields=fields)


def _facet_version(found: DatasetVersion) -> dict[str, Any]:
    return _facet("DatasetVersionDatasetFacet", datasetVersion=str(found.version))


def _facet(name: str, **values: Any) -> dict[str, Any]:
    return {"_producer": PRODUCER, "_schemaURL": f"{FACETS}/1-0-0/{name}.json#/$defs/{name}", **values}
