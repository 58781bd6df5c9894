"""How the steps of an export tell what they do."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Say = Callable[[str], None]

_SECONDS_BETWEEN = 30.0


@contextmanager
def timed(say: Say, phase: str, every: float = _SECONDS_BETWEEN) -> Iterator[None]:
    """Say after the block how long it took, and while it takes long, that it goes on.

    Args:
        say: called with a line; from another thread while the block runs.
        phase: what is done, the beginning of the line.
        every: seconds between two such lines.
    """
    begin = time.monotonic()
    done = threading.Event()

    def go_on() -> None:
        with suppress(OSError):  # nobody reads it any more: who calls hears of that with the next line
            while not done.wait(every):
                say(f"{phase}: goes on, {time.monotonic() - begin:.0f} s so far")

    watcher = threading.Thread(target=go_on, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    say(f"{phase}: {time.monotonic() - begin:.1f} s")
