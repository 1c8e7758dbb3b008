"""The secret of a home's Prefect servers: never on a command line or in a log.

It reaches servers, workers and flow runs through their environment, which other users cannot read.
"""

from __future__ import annotations

from pathlib import Path

from graft.schemas.home import Home
from graft.schemas.secret import secret_in


def secret_file(home: Home) -> Path:
    """The file of the secret: one line, "user:password", the password of Prefect's page."""
    return home.prefect / "secret"


def secret(home: Home) -> str:
    """The secret of this home's servers. Raises GraftError as `secret_in` does."""
    return secret_in(secret_file(home), "graft:")


def prefect_folder(home: Home) -> Path:
    """GRAFT_HOME/prefect; created for its owner only if it is absent."""
    home.prefect.mkdir(parents=True, exist_ok=True, mode=0o700)
    return home.prefect
