"""Gateway for all model calls: journal, limits, budget and transports."""

from graft.agents.gateway.gateway import Gateway, RoleRules
from graft.agents.gateway.health import check_endpoint
from graft.agents.gateway.ledger import Ledger
from graft.agents.gateway.stats import EndpointStats, Stats

__all__ = ["EndpointStats", "Gateway", "Ledger", "RoleRules", "Stats", "check_endpoint"]
