"""The secret of a home's Prefect servers: never on a command line or in a log.

It reaches servers, workers and flow runs through their environment, which other users cannot read.
"""

from __future__ import annotations

from pathlib import Path

from graft.schemas.home import Home
from graft.schemas.secret import secret_in


def secret_file(home: Home) -> Path:
    """Where the secret lies: one line, "user:password", which Prefect's page asks for as its password."""
    return home.prefect / "secret"


def secret(home: Home) -> str:
    """The secret of this home's servers. Raises GraftError as `secret_in` does."""
    return secret_in(secret_file(home), "graft:")


def prefect_folder(home: Home) -> Path:
    """GRAFT_HOME/prefect; made for its owner alone where it is absent."""
    home.prefect.mkdir(parents=True, exist_ok=True, mode=0o700)
    return home.prefect
