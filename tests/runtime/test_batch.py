"""How many tiles a stream is given at once where nobody says: it depends on the backend alone."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecea.runtime import inpaint, open_engine
from ecea.runtime.backends import batch, nvidia
from ecea.runtime.backends.batch import default_batch
from ecea.runtime.bundle import EngineRecord

GIB = 1 << 30


def record(*sizes: int) -> EngineRecord:
    plan: Any = SimpleNamespace(batches=dict.fromkeys(sizes)) if sizes else None
    return EngineRecord("fp16", ("tensorrt", "cuda", "openvino", "cpu"), (), plan=plan)


@pytest.mark.parametrize("backend", ["openvino", "cpu"])
def test_a_processor_is_given_one(backend: str) -> None:
    assert default_batch(backend, record(), 256, 2) == 1


def test_tensorrt_is_given_what_its_largest_plan_is_for() -> None:
    assert default_batch("tensorrt", record(4, 16, 1), 256, 2) == 16


@pytest.mark.parametrize(
    ("free", "streams", "size", "expected"),
    [
        (79 * GIB, 2, 256, 8),  # a large GPU
        (15 * GIB, 2, 256, 6),
        (15 * GIB, 1, 256, 8),
        (5 * GIB, 2, 256, 2),
        (1 * GIB, 2, 256, 1),  # it may fit nevertheless
        (0, 2, 256, 1),
        (None, 2, 256, 1),  # the driver does not tell
        (79 * GIB, 1, 512, 3),
        (2 * GIB, 2, 128, 3),
    ],
)
def test_cuda_is_given_what_fits(
    free: int | None, streams: int, size: int, expected: int, libcuda: Callable[..., Path], monkeypatch: Any
) -> None:
    driver = libcuda(free=free)
    monkeypatch.setattr(nvidia, "_LIBRARY", str(driver))
    assert nvidia.free_bytes() == free
    assert default_batch("cuda", record(), size, streams) == expected
    assert ctypes.CDLL(str(driver)).held_contexts() == 0


def test_without_a_driver_nothing_is_free(monkeypatch: pytest.MonkeyPatch, libcuda: Callable[..., Path]) -> None:
    for driver in ("libcuda.absent.so", libcuda(init=100)):
        monkeypatch.setattr(nvidia, "_LIBRARY", str(driver))
        assert nvidia.free_bytes() is None


@given(st.integers(0, 200 * GIB), st.integers(1, 64), st.sampled_from([32, 128, 256, 512, 2048]))
def test_on_cuda_it_fits_or_is_one(free: int, streams: int, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch.nvidia, "free_bytes", lambda: free)
        chosen = default_batch("cuda", record(), size, streams)
    assert 1 <= chosen <= 8
    if chosen > 1:
        assert chosen * streams * 635e6 * (size / 256) ** 2 <= free / 2  # what PyTorch takes, at the least


@pytest.mark.parametrize("world", ["plain"], indirect=True)
def test_a_scene_is_filled_in_batches_of_the_largest_plan(world: Any, tmp_path: Path, write_scene: Any) -> None:
    values = np.full((3, 40, 400), 200, np.uint8)
    values[:, 20:25] = 0
    scene = write_scene(tmp_path / "s.tif", values, nodata=0)
    world.bundle(batches=(1, 4))
    sizes: list[list[int]] = []
    for asked in ({}, {"batch": 2}):
        with world.open() as engine:
            assert engine.batch == 4
            submit = engine.submit
            sizes.append([])
            engine.submit = lambda *tiles, submit=submit: sizes[-1].append(len(tiles[0])) or submit(*tiles)
            inpaint(scene, tmp_path / "o.tif", engine, **asked)
    default, named = sizes
    assert default[0] == 4
    assert named[0] == 2
    assert sum(default) == sum(named)


def test_an_engine_on_a_processor(tiny_bundle: Callable[..., Path]) -> None:
    with open_engine(tiny_bundle(), backend="cpu") as engine:
        assert engine.batch == 1
