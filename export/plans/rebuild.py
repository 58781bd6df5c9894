"""Plans for another machine: those of a bundle, built again from its ONNX files, without the checkpoint."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecea.export.folder import take_over, whole_or_nothing
from ecea.export.parity import Tiles, parity_tiles, tile_sources
from ecea.export.plans.bundling import BACKEND, DEFAULT_BATCHES, build_plans, check_batches, prove_plans
from ecea.export.plans.machine import required_machine
from ecea.export.say import Say
from ecea.runtime.bundle import MANIFEST_NAME, OUTPUTS, Bundle, check_files, read_bundle
from ecea.runtime.engine import open_engine
from ecea.runtime.errors import RequestError
from ecea.runtime.words import counted

REFERENCE = "the bundle's fp32 engine on ONNX Runtime's CPU"


def rebuild_plans(
    path: Path,
    batches: Sequence[int] = (),
    *,
    scenes: Sequence[str | os.PathLike[str]] = (),
    scene_options: dict[str, Any] | None = None,
    say: Say = lambda _: None,
) -> Bundle:
    """Build the TensorRT plans of a bundle for the GPU of this machine; the bundle is replaced, whole.

    There is no checkpoint to compare with: the FP32 engine of the bundle, which its export has compared, stands for it.

    Args:
        path: the bundle.
        batches: tiles in a batch; none: those that it has plans for, else ``DEFAULT_BATCHES``.
        scenes: rasters with gaps to compare on; none: the built-in sample scene.
        scene_options: how to read them, as for :func:`ecea.runtime.inpaint`.
        say: called with a line for each step.

    Returns:
        The bundle, by its absolute path.

    Raises:
        RequestError: where the bundle is damaged, lacks what is needed or holds what is not its own, or this machine
            cannot build plans.
        EceaError: where a plan fails to build, to load or to compute the same; the bundle is left as it is.
    """
    bundle = read_bundle(path)
    real = path.resolve()  # where a relative path leads is replaced too if this process works in it
    manifest: dict[str, Any] = json.loads((path / MANIFEST_NAME).read_bytes())
    kept = [entry for entry in manifest["engines"] if not entry.get("plan")]
    _check_whole(bundle, kept)
    sizes = check_batches(batches) or _present_batches(manifest) or DEFAULT_BATCHES
    _check_files(bundle, kept)
    _check_nothing_else(bundle)
    machine = required_machine()
    with tile_sources(scenes, bundle.tile_size, scene_options or {}) as sources:
        tiles = parity_tiles(sources)
    expected = fp32_outputs(bundle.path, tiles)
    say(f"reference   {REFERENCE}, on {counted(len(tiles.image), 'tile')} of {tiles.source}")
    with whole_or_nothing(real) as folder:
        for name in {file["name"] for entry in kept for file in entry["files"]}:
            take_over(real / name, folder / name)
        manifest["engines"] = kept
        build_plans(folder, manifest, machine, sizes, say)
        prove_plans(folder, manifest, tiles, expected, REFERENCE, say)
    return read_bundle(real)


def fp32_outputs(bundle: Path, tiles: Tiles) -> dict[str, np.ndarray]:
    """What ``REFERENCE`` makes of all tiles, one at a time; output -> (B, C, S, S)."""
    with open_engine(bundle, engine="fp32", backend="cpu") as engine:
        parts = [engine.infer(*tiles.one(i)) for i in range(len(tiles.image))]
    return {name: np.concatenate(outputs) for name, outputs in zip(OUTPUTS, zip(*parts, strict=True), strict=True)}


def _check_whole(bundle: Bundle, kept: Sequence[dict[str, Any]]) -> None:
    """Raise RequestError unless the bundle names what plans are made of and compared with."""
    if not any(BACKEND in entry["backends"] for entry in kept):
        raise RequestError(
            f"{bundle.path}: holds no ONNX file for TensorRT: export it again with 'ecea-export CHECKPOINT --tensorrt'"
        )
    if bundle.record("fp32", "cpu") is None:
        raise RequestError(
            f"{bundle.path}: holds no fp32 engine for the CPU to compare plans with: export it again with "
            "'ecea-export CHECKPOINT --tensorrt'"
        )


def _check_files(bundle: Bundle, kept: Sequence[dict[str, Any]]) -> None:
    """Raise RequestError where one of the files that are taken over is missing or damaged."""
    names = {file["name"] for entry in kept for file in entry["files"]}
    for record in bundle.engines:
        if {file.name for file in record.files} <= names:
            check_files(bundle, record)


def _check_nothing_else(bundle: Bundle) -> None:
    """Raise RequestError where there is more in the bundle than belongs to it, which would not be in the new one."""
    names = {MANIFEST_NAME, *(file.name for record in bundle.engines for file in record.files)}
    others = sorted(path.name for path in bundle.path.iterdir() if path.name not in names)
    if others:
        raise RequestError(
            f"{bundle.path}: holds '{others[0]}', which its manifest does not name and no new bundle would hold: move "
            "it elsewhere"
        )


def _present_batches(manifest: dict[str, Any]) -> tuple[int, ...]:
    plans = [entry["plan"] for entry in manifest["engines"] if entry.get("plan")]
    return check_batches([int(size) for plan in plans for size in plan["batches"]])
