"""A run's artifacts in Prefect: a Markdown summary and the funnel as a table. Counts only, never a row's text."""

from __future__ import annotations

import logging
from typing import Any

from graft.flows.engine import flow_run

LOG = logging.getLogger("graft")


def say(text: str) -> None:
    """Log one line of progress to the `graft` logger and, inside a flow run, to Prefect's."""
    LOG.info("%s", text)
    if flow_run() is not None:
        from prefect import get_run_logger

        get_run_logger().info(text)


async def leave(dataset: str, summary: str, funnel: list[dict[str, Any]]) -> None:
    """In a flow run, store the summary and the funnel under keys derived from the dataset's name."""
    if flow_run() is None:
        return
    from prefect.artifacts import acreate_markdown_artifact, acreate_progress_artifact, acreate_table_artifact

    key = "".join(letter if letter.isalnum() else "-" for letter in dataset.lower()).strip("-")
    await acreate_markdown_artifact(
        markdown=summary, key=f"{key}-summary", description=f"Result of the run of {dataset}"
    )
    await acreate_table_artifact(table=funnel, key=f"{key}-funnel", description="Candidates by outcome and reason")
    wanted = sum(row["rows"] for row in funnel) or 1
    done = sum(row["rows"] for row in funnel if row["status"] == "accepted")
    await acreate_progress_artifact(progress=100.0 * done / wanted, key=f"{key}-yield", description="Accepted share")
