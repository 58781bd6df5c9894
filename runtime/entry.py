"""Where commands begin: who wants one to stop is answered before it has imported anything that takes time.

Nothing is imported here but what Python itself has imported by then.
"""

import importlib
import os
import signal
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

INTERRUPTED = "interrupted: what was not finished was not written"


def end_when_stopped(command: str) -> None:
    """From now on, end at once with a sentence where a signal asks for it: there is nothing yet to be undone.

    An exception would be lost in some of the modules that are being imported.
    """

    def end(number: int, frame: FrameType | None) -> None:
        try:
            os.write(2, f"{command}: {INTERRUPTED}\n".encode())
        finally:  # stderr may be closed
            os._exit(1)

    on_stop(end)


def on_stop(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Call a function on each signal that asks to stop and is not ignored; return what handled them before."""
    heeded = [number for number in STOPPING if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    return {number: signal.signal(number, handler) for number in heeded}


def _begin(command: str, module: str) -> None:
    end_when_stopped(command)
    importlib.import_module(module).main()


run = partial(_begin, "ecea-run", "ecea.runtime.cli")
export = partial(_begin, "ecea-export", "ecea.export.cli")
profile = partial(_begin, "ecea-profile", "ecea.runtime.profile_cli")
train = partial(_begin, "ecea-train", "ecea.training.cli")
evaluate = partial(_begin, "ecea-evaluate", "ecea.training.evaluation.cli")
