"""How a backend is to run a model."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ecea.runtime.bundle import PlanRecord


@dataclass(frozen=True)
class Settings:
    """How to load a model; a backend leaves out of account what it has no use for.

    Attributes:
        threads: how many it computes on.
        streams: how many tiles it works on at once, each on an equal share of the threads.
        arithmetic: what it may compute in, the fastest first: ``bf16`` or ``f32``. The first that the processor has
            instructions for is taken.
        cache: a folder for what was compiled, that the next start reads; None: nothing is kept.
        content: tells the model and its weights from others that may come to lie at the same path; for the cache.
        verify: compares the model's files with their recorded hashes; raises RequestError where they differ. To be
            called before they are read, by a backend that says it does (``Backend.verifies``).
        engine: the precision, ``fp32``, ``fp16`` or ``int8``.
        plan: of TensorRT plans, what they were built with and for.
    """

    threads: int
    streams: int = 1
    arithmetic: tuple[str, ...] = ("f32",)
    cache: Path | None = None
    content: str = ""
    verify: Callable[[], object] = lambda: None
    engine: str = "fp32"
    plan: PlanRecord | None = None
