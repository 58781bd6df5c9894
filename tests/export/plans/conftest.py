"""A machine with TensorRT and a GPU, made of fakes of TensorRT's genuine Python classes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ecea.kernels import ahead_of_time
from ecea.kernels.tactics import TACTICS
from ecea.runtime.backends import nvidia


@pytest.fixture
def one_tactic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the block shape that fits all levels of the small generator."""
    monkeypatch.setattr(ahead_of_time, "TACTICS", {10: TACTICS[10]})


@pytest.fixture
def world(
    trt: ModuleType,
    one_tactic: None,
    libcuda: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Any:
    """A process with TensorRT and an H100 (``tensorrt_builder.World``), with a cache folder of its own."""
    monkeypatch.setenv("ECEA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(nvidia, "_LIBRARY", str(libcuda()))
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)  # its graphs are faked for tests of the runtime alone
    return importlib.import_module("tensorrt_builder").World(trt, monkeypatch)
