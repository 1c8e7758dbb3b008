"""Calls through a provider's batch API, at half price."""

from graft.agents.gateway.batch.desk import BatchDesk, cancel_batch
from graft.agents.gateway.batch.store import path_in

__all__ = ["BatchDesk", "cancel_batch", "path_in"]
