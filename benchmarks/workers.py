"""Processes that take turns: each path of a benchmark has one of its own, and runs only when it is told to.

In one process the paths would disturb one another: thread pools spin for a while after their work, allocators give back
and fetch again what the next path needs.
"""

import multiprocessing
import re
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# Sets up a path and gives what runs it once: a function that returns seconds.
Setup = Callable[..., Callable[[], float]]

_CONTEXT = multiprocessing.get_context("spawn")


class Worker:
    """A path in a process of its own."""

    def __init__(self, name: str, setup: Setup, *arguments: Any) -> None:
        self.name = name
        self._pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(theirs, setup, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()  # ready

    def run(self) -> float:
        """Let it run once; return what it says that took, in seconds."""
        self._pipe.send(True)
        seconds: float = self._pipe.recv()
        return seconds

    def close(self) -> float:
        """End it; return the most memory that it ever had, in MB."""
        self._pipe.send(False)
        peak: float = self._pipe.recv()
        self._process.join()
        return peak


def take_turns(workers: Sequence[Worker], rounds: int) -> dict[str, list[float]]:
    """Run every worker once a round, in turn; return the seconds of each by name."""
    seconds: dict[str, list[float]] = {worker.name: [] for worker in workers}
    for _ in range(rounds):
        for worker in workers:
            seconds[worker.name].append(worker.run())
    return seconds


def peak_megabytes() -> float:
    """The most memory that this process ever had, as Linux counts it since the program was loaded."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) / 1024 if found else float("nan")


def _serve(pipe: Connection, setup: Setup, arguments: tuple[Any, ...]) -> None:
    run = setup(*arguments)
    pipe.send(None)
    while pipe.recv():
        pipe.send(run())
    pipe.send(peak_megabytes())
