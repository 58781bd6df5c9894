"""A machine with a GPU made of numpy, TensorRT's genuine bindings, pycuda, and a bundle with plans for it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import deque
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pycuda_fake
import pytest
import tensorrt_runtime

from ecea.runtime import open_engine

SIZE = 32


class World:
    """A machine with a GPU, TensorRT and pycuda, and a bundle with plans for it."""

    def __init__(self, trt: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.trt, self.monkeypatch = trt, monkeypatch
        self.pycuda, self.fake = pycuda_fake, tensorrt_runtime
        self.gpu = self.pycuda.Gpu()
        self.path = folder / "site.ecea"
        self.pycuda.install(self.gpu, monkeypatch)
        self.fake.install(trt, self.gpu, monkeypatch)

    @property
    def graphs(self) -> int:
        """How many have been made."""
        failed = "cuGraphInstantiate" in self.gpu.failures
        return 0 if failed else self.gpu.calls.count("cuGraphInstantiate")

    def with_graphs(self) -> World:
        driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings are not installed")
        self.fake.install_graphs(driver, self.gpu, self.monkeypatch)
        return self

    def without_graphs(self) -> World:
        self.monkeypatch.setitem(sys.modules, "cuda.bindings", None)
        return self

    def bundle(self, batches: tuple[int, ...] = (1, 4), plans: dict[int, bytes] | None = None, **changes: Any) -> Path:
        """Write the bundle; ``changes`` are of what the manifest says of the plans."""
        self.path.mkdir(exist_ok=True)
        names, files = {}, []
        for batch in batches:
            data = (plans or {}).get(batch, self.fake.plan_bytes(batch, SIZE))
            names[str(batch)] = f"generator.fp16.b{batch}.plan"
            (self.path / names[str(batch)]).write_bytes(data)
            files.append({"name": names[str(batch)], "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)})
        plan = {
            "tensorrt": self.trt.__version__,
            "gpu": self.gpu.name,
            "compute_capability": "9.0",
            "driver": "580.95.05",
            "batches": names,
            "plugin_sha256": None,
            "half_layers": 0.9,
            "device_memory_bytes": dict.fromkeys(names, 1),
            **changes,
        }
        record = {"engine": "fp16", "backends": ["tensorrt"], "files": files, "parity": [], "plan": plan}
        manifest = {"schema": 1, "configuration": {"img_size": SIZE}, "engines": [record]}
        (self.path / "manifest.json").write_text(json.dumps(manifest))
        return self.path

    def open(self, **options: Any) -> Any:
        return open_engine(self.path, **{"engine": "fp16", "backend": "tensorrt", "threads": 8, **options})

    def check_released(self) -> None:
        """Nothing is left, and nothing was done in a way that a GPU or pycuda would punish."""
        assert self.gpu.violations == []
        assert not self.gpu.blocks
        assert not self.gpu.pinned
        assert self.gpu.stack() == []
        released = self.gpu.released
        names = ("execution context", "engine")
        contexts, engines = ([i for i, kind in enumerate(released) if kind == name] for name in names)
        assert max(contexts) < min(engines) < max(engines) < released.index("runtime"), released
        if "graph" in released:
            assert released.index("graph") < min(contexts)
        assert self.gpu.capturing == {}
        assert released.count("graph") == self.graphs
        assert released.index("runtime") < released.index("memory")
        assert released[-1] == "context", released

    def another_stream(self, ready: list[tuple[str, int]]) -> int:
        """Go on with another batch than the one that something was last done for, where that may be."""
        return next((i for i, (_, stream) in enumerate(ready) if stream != self.gpu.done[-1][1]), 0)

    def check_life(self, order: int = 0) -> None:
        """Open, run batches from several threads in an order that the seed chooses, close."""
        rng = np.random.default_rng(order)
        self.gpu.policy = lambda ready: int(rng.integers(len(ready)))
        self.bundle()
        with self.open(streams=3) as engine:
            assert (engine.backend, engine.arithmetic, engine.tile_size) == ("tensorrt", "f16", SIZE)
            batches = [self.inputs(int(count), seed) for seed, count in enumerate(rng.integers(1, 12, 8))]
            futures = [engine.submit(*batch) for batch in batches]
            for batch, future in zip(batches, futures, strict=True):
                self.check_result(batch, future.result(timeout=20))
            self.gpu.policy = self.another_stream
            self.check_result(self.inputs(12), engine.submit(*self.inputs(12)).result(timeout=20))
        self.check_released()

    def fail_from_now_on(self, call: str, sticky: bool, after: int = 0) -> None:
        error = self.pycuda.LogicError(f"{call} failed: an illegal memory access was encountered")

        class Failure(self.pycuda.LogicError):  # type: ignore[misc, name-defined]
            """Breaks the GPU when it is raised."""

        self.gpu.failures[call] = deque([None] * after + [error])
        if sticky:
            original = self.gpu.call

            def call_and_break(name: str, context: bool = True) -> None:
                try:
                    original(name, context)
                except self.pycuda.LogicError as raised:
                    self.gpu.broken = raised
                    raise

            self.gpu.call = call_and_break

    @staticmethod
    def inputs(batch: int = 1, seed: int = 0) -> tuple[Any, Any, Any]:
        rng = np.random.default_rng(seed)
        image, edge = rng.random((batch, 3, SIZE, SIZE), np.float32), rng.random((batch, 1, SIZE, SIZE), np.float32)
        return image, edge, (rng.random((batch, 1, SIZE, SIZE)) < 0.3).astype(np.float32)

    @staticmethod
    def check_result(given: tuple[Any, Any, Any], result: tuple[Any, Any]) -> None:
        image, edge, mask = given
        np.testing.assert_allclose(result[0], 0.5 * image + 0.25 * mask, atol=1e-6)
        np.testing.assert_array_equal(result[1], edge)
