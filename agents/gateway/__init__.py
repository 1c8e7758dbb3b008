"""One door to every model: key, journal, limits, budget, transport."""

from agents.gateway.gateway import Gateway, Stats
from agents.gateway.health import check_endpoint
from agents.gateway.ledger import Ledger

__all__ = ["Gateway", "Ledger", "Stats", "check_endpoint"]
