"""The whole generator on a GPU: PyTorch in several forms, and the backends of the runtime where they load."""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import torch
from gpu_timing import Deadline, Path, Times, measured

from ecea.kernels import eager, op
from ecea.model import Generator, GeneratorConfig
from ecea.model.untrained import untrained_state_dict

GFLOP = 62.7  # of the default configuration, a tile
PEER = "eager FP32"

PLANS = "plans with the plugin, the function body, native Attention"

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def generator_rows(
    batches: list[int], device: str, bundle: FilePath | None, rounds: int, compiled: bool, stop: Deadline
) -> Iterator[dict[str, Any]]:
    """Every path for every number of tiles at once, torch.compile if ``compiled``; of untrained weights."""
    config = GeneratorConfig() if device == "cuda" else GeneratorConfig(img_size=64, embed_dim=16)
    state = untrained_state_dict(config, seed=1)
    for batch in batches:
        if not stop.allows(f"generator, batch {batch}"):
            continue
        inputs = _inputs(config, batch, device)
        setups: dict[str, Callable[[], Path]] = {}
        outputs: dict[str, Any] = {}
        for name, make in _forms(config, state, device).items():
            if name.startswith("torch.compile") and not compiled:
                continue
            setups[name] = _torch_path(make, inputs, device, outputs, name)
        times, not_run = measured(setups, rounds, least=0.2)
        others, others_not_run = _other_paths(bundle, batch, config, device, rounds)
        plans, plans_not_run, known = _plan_times(bundle, batch, rounds)
        paths = _rated({**times, **others, **plans}, batch)
        row = {"batch": batch, "paths": paths, "not_run": {**not_run, **others_not_run, **plans_not_run}}
        for name, more in known.items():
            paths[name] |= more
        for name, out in outputs.items():
            if name in paths and PEER in outputs:
                row["paths"][name]["max_error"] = float((out - outputs[PEER]).abs().max())
        yield row
        if device == "cuda":
            torch.cuda.empty_cache()


def _forms(config: GeneratorConfig, state: dict[str, torch.Tensor], device: str) -> dict[str, Callable[[], Any]]:
    """Name -> makes the network; each in a form that a user of PyTorch could choose."""

    def network(attention: Any, half: bool = False) -> Any:
        with torch.device("meta"):
            generator = Generator(config, attention)
        generator.load_state_dict(state, assign=True)
        generator = generator.eval().to(device)
        return generator.half() if half else generator

    def compiled(attention: Any, half: bool = False) -> Any:
        torch.compiler.reset()
        return torch.compile(network(attention, half), dynamic=False)

    return {
        PEER: lambda: network(eager.expectation_attention),
        "eager FP16": lambda: network(eager.expectation_attention, half=True),
        "FP16, our kernel": lambda: network(op.expectation_attention, half=True),
        "torch.compile FP32": lambda: compiled(eager.expectation_attention),
        "torch.compile FP16": lambda: compiled(eager.expectation_attention, half=True),
        "torch.compile FP16, our kernel": lambda: compiled(op.expectation_attention, half=True),
    }


def _torch_path(
    make: Callable[[], Any], inputs: Batch, device: str, outputs: dict[str, Any], name: str
) -> Callable[[], Path]:
    """From tensors on the device to tensors on the device, launched from a graph."""

    def setup() -> Path:
        network = make()
        dtype = next(network.parameters()).dtype
        given = [part.to(dtype) for part in inputs]

        @torch.inference_mode()
        def call() -> Any:
            return network(*given)

        outputs[name] = call()[0].float()
        return Path([call], device)

    return setup


def _other_paths(
    bundle: FilePath | None, batch: int, config: GeneratorConfig, device: str, rounds: int
) -> tuple[dict[str, Times], dict[str, str]]:
    """The runtime's backends on a bundle, from arrays to arrays."""
    names = [f"{backend} {engine}" for backend in ("cuda", "tensorrt") for engine in ("fp32", "fp16", "int8")]
    if bundle is None:
        return {}, dict.fromkeys(names, "no bundle was given: --bundle")
    try:
        runtime = importlib.import_module("ecea.runtime")
    except ImportError as error:
        return {}, dict.fromkeys(names, f"ecea.runtime cannot be imported: {error}")
    arrays = tuple(np.asarray(part.cpu()) for part in _inputs(config, batch, "cpu"))
    opened: list[Any] = []

    def backend_path(name: str) -> Callable[[], Path]:
        def setup() -> Path:
            backend, engine = name.split()
            opened.append(runtime.open_engine(bundle, engine=engine, backend=backend))
            infer = opened[-1].infer
            return Path([lambda: infer(*arrays)], device, graph=False)

        return setup

    setups = {name: backend_path(name) for name in names}
    try:
        times, not_run = measured(setups, rounds, least=0.2)
    finally:
        for engine in opened:
            engine.close()
    return times, not_run


def _plan_times(
    bundle: FilePath | None, batch: int, rounds: int
) -> tuple[dict[str, Times], dict[str, str], dict[str, dict[str, Any]]]:
    """Plans with attention in each form, through the runtime: name -> times, why not, what else is known."""
    if bundle is None:
        return {}, {PLANS: "no bundle was given: --bundle"}, {}
    try:
        comparison = importlib.import_module("ecea.export.plans.comparison")
        found = comparison.compare_attention(bundle, batch, rounds=rounds)
    except Exception as error:  # onnx is not installed, no TensorRT, no such bundle
        return {}, {PLANS: f"{type(error).__name__}: {error}"}, {}
    named = {f"plan, attention by {form}": one for form, one in found.items()}
    ran = {name: one for name, one in named.items() if one.why_not is None}
    times = {name: Times(list(one.seconds)) for name, one in ran.items()}
    known = {
        name: {"build_seconds": one.build_seconds, "max_error": one.to_reference, "to_plugin": one.to_plugin}
        for name, one in ran.items()
    }
    return times, {name: one.why_not for name, one in named.items() if one.why_not is not None}, known


def _inputs(config: GeneratorConfig, batch: int, device: str) -> Batch:
    rng = torch.Generator().manual_seed(batch)
    size = config.img_size
    mask = (torch.rand(batch, 1, size, size, generator=rng) < 0.2).float()
    image = torch.rand(batch, 3, size, size, generator=rng) * (1 - mask)
    edge = torch.rand(batch, 1, size, size, generator=rng)
    return image.to(device), edge.to(device), mask.to(device)


def _rated(times: dict[str, Times], batch: int) -> dict[str, Any]:
    peer = times.get(PEER)
    rated = {}
    for name, took in times.items():
        row: dict[str, Any] = {"seconds": took.median, "range": took.range}
        row["tiles_per_second"] = batch / took.median
        row["flops"] = GFLOP * 1e9 * batch / took.median
        if peer is not None:
            row["ratio"] = peer.median / took.median
        rated[name] = row
    return rated
