"""Clean scenes in memory and in files, and an engine that is a function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ecea.runtime import Engine
from ecea.runtime.bundle import Bundle
from ecea.runtime.stretch import Stretch
from ecea.training.evaluation.scenes import CleanScene

Tensor = NDArray[np.float32]


class FunctionSession:
    """A session that answers with a function of its inputs."""

    arithmetic = "f32"

    def __init__(self, answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        self._answer = answer

    def infer(self, image: Tensor, edge: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return np.asarray(self._answer(image, edge, mask), np.float32), edge

    def close(self) -> None:
        pass


@pytest.fixture(scope="session")
def engine_of() -> Callable[..., Engine]:
    """``engine_of(answer, size=32)``: an engine for tiles of ``size`` px that gives ``answer(image, edge, mask)``."""

    def make(answer: Callable[[Tensor, Tensor, Tensor], Tensor], size: int = 32) -> Engine:
        bundle = Bundle(Path("fake.ecea"), "0" * 64, {"img_size": size}, ())
        return Engine(FunctionSession(answer), bundle=bundle, found="test", engine="fp32", backend="fake")

    return make


@pytest.fixture(scope="session")
def scene_of_values() -> Callable[..., CleanScene]:
    """``scene_of_values(values, valid=..., stretch=..., nodata=...)``: a clean scene that no file holds."""

    def make(values: NDArray[Any], **changes: Any) -> CleanScene:
        fields: dict[str, Any] = {
            "path": Path("memory.tif"),
            "label": "memory.tif",
            "values": values,
            "valid": np.ones(values.shape[1:], bool),
            "stretch": Stretch(0, 255),
            "nodata": None,
        }
        return CleanScene(**(fields | changes))

    return make


@pytest.fixture
def noise() -> NDArray[np.uint8]:
    """(3, 40, 50) 8-bit noise from 20 to 180."""
    return np.random.default_rng(5).integers(20, 180, (3, 40, 50), dtype=np.uint8)


@pytest.fixture
def hole() -> NDArray[np.bool_]:
    """(40, 50), True in 4 rows."""
    gap = np.zeros((40, 50), bool)
    gap[18:22] = True
    return gap
