"""From a checkpoint to a bundle."""

import dataclasses
import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ecea.calibration import Calibration, TileSource, choose_tiles
from ecea.calibration.tiles import tile_hash
from ecea.export.checking import Checker
from ecea.export.exportable import Exportable, load_exportable
from ecea.export.folder import check_bundle, check_scenes, describe_file, whole_or_nothing, write_manifest
from ecea.export.forms import Built, build, forms
from ecea.export.int8 import DEFAULT_TARGET_DB, Int8Builder
from ecea.export.parity import ParityError, Tiles, parity_tiles, reference, tile_sources
from ecea.export.passes import optimize
from ecea.export.plans.bundling import DEFAULT_BATCHES, build_plans, check_batches, drop_plans, prove_plans
from ecea.export.plans.machine import Machine, machine_if
from ecea.export.say import Say
from ecea.export.trace import trace
from ecea.export.weights import SharedWeights
from ecea.model import CheckpointError
from ecea.runtime.backends.tensorrt_plans import rebuild
from ecea.runtime.bundle import INPUTS, OUTPUTS, SCHEMA_VERSION, SUFFIX, Bundle, EngineRecord, read_bundle, sha256
from ecea.runtime.errors import EceaError, RequestError
from ecea.runtime.words import counted

ENGINES = ("fp32", "fp16", "int8")

# Tiles that the ranges of activations are measured on.
CALIBRATION_TILES = 16


def export_bundle(
    checkpoint: Path,
    destination: Path | None = None,
    *,
    engines: Sequence[str] = ENGINES,
    scenes: Sequence[str | os.PathLike[str]] = (),
    scene_options: dict[str, Any] | None = None,
    num_heads: Sequence[int] | None = None,
    int8_target_db: float = DEFAULT_TARGET_DB,
    tensorrt: bool | None = None,
    batches: Sequence[int] = DEFAULT_BATCHES,
    say: Say = lambda _: None,
) -> Bundle:
    """Export a checkpoint: every engine is compared with PyTorch before the bundle appears.

    Args:
        checkpoint: the state dict of a generator, or of a U-Net, ``.pth`` or ``.safetensors``.
        destination: the bundle, ``NAME.ecea``; None: named after the checkpoint, in the current directory.
        engines: of ``ENGINES``.
        scenes: rasters with gaps, files or whatever else GDAL opens, to calibrate INT8 and to compare the engines on;
            none: the built-in sample scene.
        scene_options: how to read them, as for :func:`ecea.runtime.inpaint`: ``bands``, ``mask``, ``stretch``.
        num_heads: attention heads at each level, where the checkpoint's widths do not tell.
        int8_target_db: how close INT8 has to come to PyTorch over missing pixels: PSNR in dB, on a range of 1.
        tensorrt: build TensorRT plans as well: True: always, None: where that succeeds.
        batches: batch sizes to build plans for.
        say: called with a line for each step.

    Returns:
        The bundle. Where INT8 stays below its target (:func:`below_target`), it holds the best that was found.

    Raises:
        RequestError: where the checkpoint, the scenes, an option or the destination are wrong.
        EceaError: where an engine, or a plan that was asked for, fails to build, to load or to match PyTorch; no bundle
            is written.
    """
    target = destination or Path(f"{checkpoint.stem}{SUFFIX}")
    _check_request(checkpoint, target, engines, int8_target_db)
    check_scenes(target, scenes, scene_options or {})
    sizes = check_batches(batches)
    machine, no_plans = machine_if(tensorrt)
    exportable, origin = load_checkpoint(checkpoint, num_heads, say), describe_checkpoint(checkpoint)
    source = _prepare(exportable, engines, scenes, scene_options or {}, say)
    with whole_or_nothing(target) as folder:
        records = _write_engines(source, engines, int8_target_db, folder, say)
        manifest = describe_bundle(origin, source.exportable, source.tiles, records, source.calibration)
        write_manifest(folder, manifest)
        if machine is None:
            say(f"plans       none, {no_plans}")
        elif why_not := _add_plans(source, folder, manifest, machine, sizes, say):
            if tensorrt:
                raise EceaError(f"{why_not}; --no-tensorrt leaves plans out") from why_not
            why = why_not.finding if isinstance(why_not, ParityError) else why_not
            say(f"plans       none, {why}; {rebuild(target)} tries again")
    return read_bundle(target)


@dataclass(frozen=True)
class _Source:
    """What engines are made of, and what they are compared with.

    Attributes:
        exportable: in PyTorch.
        model: the same in ONNX, optimized.
        tiles: to compare on.
        expected: what PyTorch makes of them, by output.
        calibration: for INT8; None where that is not exported.
    """

    exportable: Exportable
    model: ir.Model
    tiles: Tiles
    expected: dict[str, np.ndarray]
    calibration: Calibration | None


def _add_plans(
    source: _Source, folder: Path, manifest: dict[str, Any], machine: Machine, batches: Sequence[int], say: Say
) -> EceaError | None:
    """Build plans into a bundle and compare them; where that fails, take them out again and return why."""
    try:
        build_plans(folder, manifest, machine, batches, say)
        prove_plans(folder, manifest, source.tiles, source.expected, "PyTorch", say)
    except EceaError as error:
        drop_plans(folder, manifest)
        return error
    return None


def load_checkpoint(checkpoint: Path, num_heads: Sequence[int] | None, say: Say) -> Exportable:
    """The network of a checkpoint, for an export.

    Raises:
        RequestError: where the checkpoint cannot be read, or is of one that the runtime has no tiles for.
    """
    try:
        exportable = load_exportable(checkpoint, num_heads)
    except CheckpointError as error:
        raise RequestError(str(error)) from error
    say(f"checkpoint  {checkpoint}: {exportable.parameters / 1e6:.2f} M parameters, tiles of {exportable.tile_size} px")
    return exportable


def _prepare(
    exportable: Exportable,
    engines: Sequence[str],
    scenes: Sequence[str | os.PathLike[str]],
    scene_options: dict[str, Any],
    say: Say,
) -> _Source:
    with tile_sources(scenes, exportable.tile_size, scene_options) as sources:
        tiles = parity_tiles(sources)
        calibration = _calibrate(sources, tiles, say) if "int8" in engines else None
    expected = reference(exportable.network, tiles)
    say(f"reference   PyTorch on {counted(len(tiles.image), 'tile')} of {tiles.source}")
    model = trace(exportable.network, exportable.tile_size)
    optimize(model)
    say("traced      to ONNX")
    return _Source(exportable, model, tiles, expected, calibration)


def _calibrate(sources: Sequence[TileSource], tiles: Tiles, say: Say) -> Calibration:
    """Choose the tiles for INT8, others than those that it will be measured on where there are others."""
    measured_on = {tile_hash(*(part[0] for part in tiles.one(i))) for i in range(len(tiles.image))}
    calibration = choose_tiles(sources, CALIBRATION_TILES, but=measured_on)
    say(f"calibration {counted(len(calibration.feeds), 'tile')} of {tiles.source}")
    if any(record.sha256 in measured_on for record in calibration.records):
        say("warning     INT8 is measured on the tiles that it is calibrated on: name more or larger scenes")
    if tiles.synthetic:
        say("warning     these are synthetic: name scenes of your own with --calibrate for an INT8 engine to rely on")
    return calibration


def _write_engines(
    source: _Source, engines: Sequence[str], int8_target_db: float, folder: Path, say: Say
) -> list[EngineRecord]:
    """Write the files of all engines; each has been run where it can be."""
    check = Checker(folder, source.exportable.network, source.tiles, source.expected, say)
    records: list[EngineRecord] = []
    for engine in engines:
        if source.calibration is not None and engine == "int8":
            out = source.expected["out"]
            with Int8Builder(source.model, source.calibration, source.tiles, out, int8_target_db, say) as builder:
                records += _write(engine, builder.build(), folder, check)
        else:
            made = (Built(form, build(form, source.model)) for form in forms(engine))
            records += _write(engine, made, folder, check)
    return records


def _write(engine: str, made: Iterable[Built], folder: Path, check: Checker) -> list[EngineRecord]:
    """Write the files of one engine, run each on every backend that loads, and record what was measured."""
    written = []
    with SharedWeights(folder / f"generator.{engine}.weights") as weights:
        for built in made:
            weights.save(built.model, folder / built.form.file_name)
            written.append((built.form, built.record))
    shared = describe_file(weights.path)
    records = []
    for form, quantization in written:
        parity, arithmetic = check(form, quantization)
        files = (describe_file(folder / form.file_name), shared)
        records.append(EngineRecord(engine, form.backends, files, parity, arithmetic, quantization))
    return records


def below_target(bundle: Bundle, *, rebuilt: bool = False) -> str | None:
    """Say which INT8 engines are less accurate than was asked for; None where all are as good.

    Args:
        bundle: as it was written.
        rebuilt: its plans alone are new: the others have been judged at the export.
    """
    quantizations = [
        (quantization, ", ".join(record.backends))
        for record in bundle.engines
        if (quantization := record.quantization) and (record.plan or not rebuilt)
    ]
    missed = [
        f"{quantization['reached_db']:.1f} dB for {backends}"
        for quantization, backends in quantizations
        if quantization["reached_db"] < quantization["target_db"]
    ]
    if not missed:
        return None
    advice = (
        "the bundle has the new plans; accept them with --allow-below-target, or export the checkpoint again, with a "
        "lower --int8-target-db or calibrated on more scenes"
        if rebuilt
        else "the bundle is written with the best that was found; accept it with --allow-below-target, ask for less "
        "with --int8-target-db, or calibrate on more scenes"
    )
    target = quantizations[0][0]["target_db"]
    return f"{bundle.path}: int8 reaches {'; '.join(missed)}, {target:g} dB were asked for: {advice}"


def _check_request(checkpoint: Path, target: Path, engines: Sequence[str], target_db: float) -> None:
    if not 0 < target_db <= 100:
        raise RequestError(
            f"a target of {target_db:g} dB for int8 is impossible: expected above 0, up to 100; 45 is usual"
        )
    unknown = [engine for engine in engines if engine not in ENGINES]
    if unknown or not engines:
        raise RequestError(
            f"engine '{', '.join(unknown)}' cannot be exported by this version: expected {' or '.join(ENGINES)}"
        )
    check_bundle(target, checkpoint)


def describe_checkpoint(path: Path) -> dict[str, str]:
    """What the manifest says of a checkpoint: to be asked when it is read, for it may be another one later."""
    return {"name": path.name, "sha256": sha256(path)}


def describe_bundle(
    checkpoint: dict[str, str],
    exportable: Exportable,
    tiles: Tiles,
    records: Sequence[EngineRecord],
    calibration: Calibration | None,
) -> dict[str, Any]:
    """The manifest: what a bundle says of itself, but for plans."""
    return {
        "schema": SCHEMA_VERSION,
        "configuration": exportable.configuration,
        "checkpoint": checkpoint,
        "inputs": _describe(INPUTS, exportable.tile_size),
        "outputs": _describe(OUTPUTS, exportable.tile_size),
        "engines": [dataclasses.asdict(record) for record in records],
        "parity_tiles": {"count": len(tiles.image), "source": tiles.source, "sha256": _hash_tiles(tiles)},
        "calibration": _describe_calibration(calibration),
        "made_with": _versions(),
    }


def _describe(tensors: Mapping[str, int], size: int) -> list[dict[str, Any]]:
    return [
        {"name": name, "dtype": "float32", "shape": ["batch", count, size, size]} for name, count in tensors.items()
    ]


def _describe_calibration(calibration: Calibration | None) -> dict[str, Any] | None:
    if calibration is None:
        return None
    return {"seed": calibration.seed, "tiles": [dataclasses.asdict(record) for record in calibration.records]}


def _hash_tiles(tiles: Tiles) -> str:
    digest = hashlib.sha256()
    for tensor in tiles.first(len(tiles.image)):
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    names = ("ecea", "torch", "onnx", "onnxscript", "onnx-ir", "openvino")
    found = {name: _version(name) for name in names} | {
        "onnxruntime": _version("onnxruntime-gpu") or _version("onnxruntime")
    }
    return {"python": platform.python_version(), **{name: version for name, version in found.items() if version}}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
