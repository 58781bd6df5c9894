"""TensorRT's genuine Python classes, and a machine made of fakes of them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ecea.kernels import ahead_of_time
from ecea.kernels.tactics import TACTICS


@pytest.fixture(scope="module")
def trt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The genuine bindings; other tests find ``tensorrt`` as it was before."""
    here = Path(__file__).parent
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(here)
        patch.syspath_prepend(here.parents[1] / "kernels")
        module = importlib.import_module("tensorrt_stubs").load(tmp_path_factory.mktemp("stubs"))
        importlib.import_module("tensorrt.plugin")
        yield module
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorrt"]:
        del sys.modules[name]


@pytest.fixture
def one_tactic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the block shape that fits all levels of the small generator."""
    monkeypatch.setattr(ahead_of_time, "TACTICS", {10: TACTICS[10]})


@pytest.fixture
def world(trt: ModuleType, one_tactic: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A process with TensorRT and an H100, with a cache folder of its own."""
    monkeypatch.setenv("ECEA_CACHE", str(tmp_path / "cache"))
    return importlib.import_module("tensorrt_world").World(trt)
