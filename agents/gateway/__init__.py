"""One door to every model: key, journal, limits, budget, transport."""

from agents.gateway.gateway import Gateway, RoleRules
from agents.gateway.health import check_endpoint
from agents.gateway.ledger import Ledger
from agents.gateway.stats import EndpointStats, Stats

__all__ = ["EndpointStats", "Gateway", "Ledger", "RoleRules", "Stats", "check_endpoint"]
