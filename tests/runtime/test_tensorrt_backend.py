"""The TensorRT backend through TensorRT's genuine classes, on a GPU made of numpy."""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecea.runtime import inpaint
from ecea.runtime.backends import tensorrt

SIZE = 32


@pytest.mark.parametrize("order", range(6))
def test_the_whole_life(world: Any, order: int) -> None:
    world.check_life(order)


def test_graphs_are_replayed_where_there_are_bindings_for_them(world: Any) -> None:
    world.bundle()
    with world.open() as engine:
        engine.infer(*world.inputs(1))
        graphs = "cuGraphLaunch" in world.gpu.calls
        assert graphs == (world.gpu.calls.count("execute_async_v3") == 8)  # warmed up and recorded, in 2 lanes
        assert graphs or world.gpu.calls.count("execute_async_v3") == 5
    assert world.gpu.released.count("graph") == (4 if graphs else 0)


@pytest.mark.parametrize("call", ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate"])
def test_what_cannot_be_recorded_runs_without_a_graph(world: Any, call: str) -> None:
    world.gpu.failures[call] = deque([RuntimeError()] * 6)
    world.check_life()
    assert "cuGraphLaunch" not in world.gpu.calls


def prefer(*kinds: str) -> Callable[[list[tuple[str, int]]], int]:
    """Do some kinds of work as early as may be."""
    rank = {kind: place for place, kind in enumerate(kinds)}
    return lambda ready: min(range(len(ready)), key=lambda i: rank.get(ready[i][0], -1))


def test_the_next_batch_is_copied_in_while_one_is_computed(world: Any) -> None:
    world.bundle(batches=(4,))
    with world.open() as engine:
        world.gpu.done.clear()
        world.gpu.policy = prefer("in", "out", "compute")
        engine.infer(*world.inputs(8))
        kinds = [what for what, _ in world.gpu.done if what in ("in", "out", "compute")]
    assert kinds[:7] == ["in"] * 6 + ["compute"]


def test_a_batch_is_copied_out_while_the_next_is_computed(world: Any) -> None:
    world.bundle(batches=(4,))
    with world.open() as engine:
        world.gpu.done.clear()
        world.gpu.policy = prefer("in", "compute", "out")
        engine.infer(*world.inputs(8))
        computed = [(what, stream) for what, stream in world.gpu.done if what in ("out", "compute")]
    first, second = dict.fromkeys(stream for _, stream in computed)
    assert computed.index(("out", first)) > computed.index(("compute", second))


def test_only_one_batch_is_computed_at_a_time(world: Any) -> None:
    """They share the memory that they work in."""
    world.bundle(batches=(1,))
    with world.open(streams=4) as engine:
        world.gpu.done.clear()
        rng = np.random.default_rng(1)
        world.gpu.policy = lambda ready: int(rng.integers(len(ready)))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda seed: engine.infer(*world.inputs(3, seed)), range(8)))
        streams = [stream for what, stream in world.gpu.done if what == "compute"]
    assert streams[::2] == streams[1::2]  # a batch takes two steps


@given(st.integers(1, 70), st.sets(st.sampled_from([1, 2, 3, 4, 6, 8, 16, 32]), min_size=1))
def test_a_batch_of_any_size_is_made_of_those_that_there_are(count: int, sizes: set[int]) -> None:
    batches = tuple(sorted(sizes))
    parts = tensorrt._parts(count, batches)
    taken = [index for part, _ in parts for index in range(count)[part]]
    assert taken == list(range(count))
    for part, batch in parts:
        assert batch in sizes
        assert 0 < part.stop - part.start <= batch
    if count in sizes:
        assert len(parts) == 1
    padding = sum(batch for _, batch in parts) - count
    assert padding < max(batches)
    # No dearer than with plans of one size alone.
    assert padding + len(parts) <= min(-(-count // size) * (size + 1) for size in sizes) - count


def test_a_scene_is_filled(world: Any, tmp_path: Path, write_scene: Any, read_bands: Any) -> None:
    values = np.full((3, 70, 50), 200, np.uint8)
    values[:, 20:25] = 0
    path = write_scene(tmp_path / "s.tif", values, nodata=0)
    world.bundle()
    with world.open(streams=2) as engine:
        result = inpaint(path, tmp_path / "o.tif", engine, batch=2)
    filled = read_bands(tmp_path / "o.tif")
    assert (filled[:, 20:25] == 64).all()  # 255 / 4, rounded
    assert (np.delete(filled, np.s_[20:25], axis=1) == 200).all()
    assert (result.backend, result.arithmetic) == ("tensorrt", "f16")
    world.check_released()


def test_memory_is_asked_for_when_an_engine_is_opened_and_not_again(world: Any) -> None:
    world.bundle()
    with world.open(streams=3) as engine:
        asked = [world.gpu.calls.count(name) for name in ("mem_alloc", "pagelocked_empty")]
        assert asked == [1 + 3, 3 * 5]  # what the plans work in, and three lanes
        for batch in (1, 4, 9):
            engine.infer(*world.inputs(batch))
        assert asked == [world.gpu.calls.count(name) for name in ("mem_alloc", "pagelocked_empty")]
    world.check_released()


def test_a_batch_that_a_profile_fixes_is_taken(world: Any) -> None:
    world.bundle(plans={4: world.fake.plan_bytes(4, SIZE, shown_batch=-1)})
    with world.open() as engine:
        world.check_result(world.inputs(4), engine.infer(*world.inputs(4)))


def test_another_driver_is_no_reason(world: Any) -> None:
    world.bundle(driver="570.1")
    world.open().close()


def test_layers_are_timed(world: Any) -> None:
    world.bundle()
    with world.open() as engine:
        layers = engine.layer_times(*world.inputs(2))
        assert [(layer.name, layer.kind, layer.seconds) for layer in layers] == [
            ("halve", "kgen", 0.002),
            ("shade", "", 0.001),
        ]
    assert world.gpu.violations == []


def test_the_fake_of_pycuda_is_called_as_pycuda_is(trt: ModuleType) -> None:
    """``trt`` for the search path alone."""
    pycuda = importlib.import_module("pycuda_fake")
    driver = pycuda.driver_of(pycuda.Gpu())
    for name, line in pycuda.SIGNATURES.items():
        wanted = pycuda.parameters(line)
        if name.endswith("__init__") and "(object)arg1" in line:
            wanted[0] = ("self", False)
        found = pycuda.parameters_of(pycuda.lookup(driver, name))
        assert [optional for _, optional in found] == [optional for _, optional in wanted], name
        named = [(mine, right) for (mine, _), (right, _) in zip(found, wanted, strict=True) if right[:3] != "arg"]
        assert all(mine == right for mine, right in named), name


def test_the_fake_of_pycuda_is_what_is_installed(trt: ModuleType) -> None:
    driver = pytest.importorskip("pycuda.driver", exc_type=ImportError)
    pycuda = importlib.import_module("pycuda_fake")
    for name, line in pycuda.SIGNATURES.items():
        assert line in (pycuda.lookup(driver, name).__doc__ or ""), name
    for name in (*pycuda.ATTRIBUTES, *pycuda.ERRORS):
        pycuda.lookup(driver, name)
    assert issubclass(driver.MemoryError, driver.Error)
