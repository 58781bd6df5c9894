"""Of the processes of a run, one for each device, one speaks."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from ecea.runtime.errors import EceaError

_SECONDS = 10.0  # in which the main process ends, if it has met the same
_LOST = ("closed by peer", "reset by peer")  # in what gloo and NCCL say


@contextmanager
def one_voice() -> Iterator[None]:
    """Leave it to the main process to say what went wrong in the block, as long as it has met it as well.

    Another process speaks where the main one goes on, for then nobody else knows; else it ends with the same status.

    Raises:
        EceaError: in the main process, where another has ended.
    """
    main = os.getppid()
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            if _ends(main):
                raise typer.Exit(getattr(error, "exit_status", EceaError.exit_status)) from error
        elif isinstance(error, RuntimeError) and any(words in str(error) for words in _LOST):
            raise EceaError("the process of another device has ended: what was not finished was not written") from error
        raise


def _ends(parent: int) -> bool:
    """Whether this process's parent ends, waited for a while."""
    until = time.monotonic() + _SECONDS
    while os.getppid() == parent:
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True
