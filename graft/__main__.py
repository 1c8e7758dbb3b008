"""`python -m graft` and `graft`: the command line. Ctrl-C while it is being imported ends it without a traceback."""

import os
import signal
import threading
from typing import NoReturn

END_SECONDS = 5.0
"""Seconds until the process ends after Ctrl-C, should a library have swallowed the exception."""


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGINT, _quit)
    from graft.cli.app import main as run

    run(lambda: signal.signal(signal.SIGINT, _interrupt))


def _quit(number: int = 0, frame: object = None) -> NoReturn:
    os._exit(130)


def _interrupt(number: int, frame: object) -> NoReturn:
    timer = threading.Timer(END_SECONDS, _quit)
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
