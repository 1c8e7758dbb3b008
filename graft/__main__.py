"""`python -m graft` and `graft`: the command line. Ctrl-C while it is being imported ends it without a traceback."""

import os
import signal
from typing import NoReturn


def main() -> None:
    """Run the command line."""
    handler = signal.signal(signal.SIGINT, _quit)
    from graft.cli.app import main as run

    run(lambda: signal.signal(signal.SIGINT, handler))


def _quit(number: int, frame: object) -> NoReturn:
    os._exit(130)


if __name__ == "__main__":
    main()
