"""One small generator, traced and exported once for all tests of the package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray

from ecea.export import checking, exporter
from ecea.export.parity import Tiles, parity_tiles, tile_sources
from ecea.export.passes import optimize
from ecea.export.trace import trace
from ecea.model import Generator, GeneratorConfig, load_generator
from ecea.model.untrained import untrained_state_dict
from ecea.runtime.bundle import OUTPUTS, Bundle

Arrays = tuple[NDArray[np.float32], ...]


# What the untrained generator reaches with every layer quantized.
INT8_TARGET_DB = 25.0


@dataclass(frozen=True)
class Small:
    """A small generator; ``traced`` and ``optimized`` are to be cloned, not changed.

    ``tiles`` are 8 of the built-in sample scene, ``expected`` what PyTorch makes of all of them at once.
    """

    checkpoint: Path
    generator: Generator
    traced: ir.Model
    optimized: ir.Model
    tiles: Tiles
    expected: Arrays


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: on a busy machine its threads wait for one another, ten times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    checkpoint = tmp_path_factory.mktemp("checkpoint") / "small.pth"
    config = GeneratorConfig(img_size=64, embed_dim=32, depth=(1, 2, 1, 1), num_heads=(1, 2, 4, 8))
    torch.save(untrained_state_dict(config, seed=11), checkpoint)
    generator = load_generator(checkpoint)
    traced = trace(generator, config.img_size)
    optimized = traced.clone()
    optimize(optimized)
    with tile_sources([], config.img_size, {}) as sources:
        tiles = parity_tiles(sources)
    with torch.inference_mode(), one_thread():
        expected = generator(*map(torch.from_numpy, tiles.first(8)))
    return Small(checkpoint, generator, traced, optimized, tiles, tuple(output.numpy() for output in expected))


@pytest.fixture
def quick_export(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports of the small generator take the trace, the tiles and the reference that are already there."""
    expected = dict(zip(OUTPUTS, small.expected, strict=True))
    monkeypatch.setattr(exporter, "trace", lambda network, tile_size: small.traced.clone())
    monkeypatch.setattr(exporter, "parity_tiles", lambda sources: small.tiles)
    monkeypatch.setattr(exporter, "reference", lambda generator, tiles: expected)


@pytest.fixture(scope="session")
def exported(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The small generator as a bundle, exported from the trace that is already there; not to be changed."""
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setattr(exporter, "trace", lambda network, tile_size: small.traced.clone())
        patch.setattr(checking, "_TIMED_ROUNDS", 1)
        return exporter.export_bundle(
            small.checkpoint, tmp_path_factory.mktemp("bundles") / "small.ecea", int8_target_db=INT8_TARGET_DB
        )


@pytest.fixture(scope="session")
def run_onnx() -> Callable[[ir.Model | Path, Arrays], Arrays]:
    """``run_onnx(model, (image, edge, mask))``: what ONNX Runtime's CPU provider makes of it."""

    def run(model: ir.Model | Path, inputs: Arrays) -> Arrays:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 2, 3
        source = model if isinstance(model, Path) else ir.to_proto(model).SerializeToString()
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        named = dict(zip(("image", "edge", "mask"), inputs, strict=True))
        return tuple(session.run(["out", "out_edge"], named))

    return run
