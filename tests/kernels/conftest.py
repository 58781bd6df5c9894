"""Where Triton's kernels run without a GPU: in its interpreter, which must be chosen before triton is imported."""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

Interpret = Callable[..., Any]


@pytest.fixture(scope="session")
def interpret() -> Iterator[Interpret]:
    """Calls an importable function in a process in which ``triton.jit`` interprets."""
    pytest.importorskip("triton", reason="Triton, which is for Linux on x86-64, is not installed")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        with pytest.MonkeyPatch.context() as patch:
            # A new process takes over the environment and the search path of this moment.
            patch.setenv("TRITON_INTERPRET", "1")
            patch.syspath_prepend(Path(__file__).parent)
            repair = importlib.import_module("triton_interpreter").repair_bfloat16
            pool.submit(repair).result()
        yield lambda function, *arguments: pool.submit(function, *arguments).result()
