"""Times on a GPU: by its own events, of replayed graphs, each path in turn.

Without a GPU everything here runs on the CPU with a host's clock. That is for trying the benchmark out, not for
figures.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch

Call = Callable[[], object]

# Inputs rotate among sets that together exceed the L2 cache by this factor, so that each call reads from memory.
BEYOND_L2 = 2
MAX_SETS = 256
CPU_L2_BYTES = 2**16  # what stands for it without a GPU


@dataclass(frozen=True)
class Times:
    """Seconds for one call, one number a round."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def range(self) -> list[float]:
        return [min(self.seconds), max(self.seconds)]


class Deadline:
    """A budget of seconds. What is left out when it is spent is said, not guessed."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        self.left_out: list[str] = []

    def allows(self, what: str) -> bool:
        """Whether there is time left; if not, ``what`` is noted as left out."""
        if time.monotonic() < self.end:
            return True
        self.left_out.append(what)
        return False


def input_sets(device: str, bytes_of_one: int) -> int:
    """How many sets of inputs to rotate among."""
    l2 = torch.cuda.get_device_properties(0).L2_cache_size if device == "cuda" else CPU_L2_BYTES
    return int(min(MAX_SETS, max(2, -(-BEYOND_L2 * l2 // bytes_of_one))))


class Path:
    """Calls that do the same work on one set of inputs after another, ready to be timed.

    On a GPU they are captured into one graph, so that what the host takes to launch them does not count; with
    ``graph=False`` they are launched one by one, as a program without graphs would.
    """

    def __init__(self, calls: Sequence[Call], device: str, graph: bool = True) -> None:
        self.calls = calls
        self.device = device
        self.graph: torch.cuda.CUDAGraph | None = None
        if device == "cuda" and graph:
            self.graph = self._capture()
        else:
            for call in calls[:2]:
                call()

    def _capture(self) -> torch.cuda.CUDAGraph:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # compiled, tuned and allocated before it is captured
                self.calls[0]()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in self.calls:
                call()
        return graph

    def run(self) -> None:
        if self.graph is not None:
            self.graph.replay()
        else:
            for call in self.calls:
                call()

    def seconds(self, least: float) -> float:
        """Of one call, over at least ``least`` seconds of them."""
        if self.device != "cuda":
            begin = time.perf_counter()
            self.run()
            return (time.perf_counter() - begin) / len(self.calls)
        once = self._events(1)
        repeats = max(1, round(least / once))
        return self._events(repeats) / repeats / len(self.calls)

    def _events(self, repeats: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(repeats):
            self.run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3


def take_turns(paths: dict[str, Path], rounds: int, least: float = 0.01) -> dict[str, Times]:
    """Time every path once in each round, so that clocks and heat fall on all alike; one more round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for number in range(rounds + 1):
        for name, path in paths.items():
            took = path.seconds(least)
            if number:
                seconds[name].append(took)
    return {name: Times(took) for name, took in seconds.items()}


def measured(
    setups: dict[str, Callable[[], Path]], rounds: int, least: float = 0.01
) -> tuple[dict[str, Times], dict[str, str]]:
    """Set paths up and time them.

    Returns:
        name -> times, and name -> why not, for those that could not be set up.
    """
    ready: dict[str, Path] = {}
    not_run: dict[str, str] = {}
    for name, setup in setups.items():
        try:
            ready[name] = setup()
        except Exception as error:  # whatever it is, the others are measured
            not_run[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    return take_turns(ready, rounds, least), not_run
