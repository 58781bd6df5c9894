"""From a checkpoint to a bundle."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ecea.export.forms import Form, build, forms
from ecea.export.parity import Tiles, compare, parity_tiles, reference
from ecea.export.passes import optimize
from ecea.export.trace import INPUTS, OUTPUTS, trace
from ecea.export.weights import SharedWeights
from ecea.model import CheckpointError, Generator, load_generator
from ecea.runtime.backends import BACKENDS
from ecea.runtime.bundle import MANIFEST_NAME, SCHEMA_VERSION, SUFFIX, Bundle, BundleFile, EngineRecord, read_bundle
from ecea.runtime.engine import usable_processors
from ecea.runtime.errors import BackendUnavailable, EceaError, RequestError

ENGINES = ("fp32", "fp16")

Say = Callable[[str], None]


def export_bundle(
    checkpoint: Path,
    destination: Path | None = None,
    *,
    engines: Sequence[str] = ENGINES,
    scenes: Sequence[Path] = (),
    scene_options: dict[str, Any] | None = None,
    num_heads: Sequence[int] | None = None,
    say: Say = lambda _: None,
) -> Bundle:
    """Export a checkpoint: every engine is compared with PyTorch before the bundle appears.

    Args:
        checkpoint: a generator's state dict, ``.pth`` or ``.safetensors``.
        destination: the bundle, ``NAME.ecea``; None: named after the checkpoint, in the current directory.
        engines: of ``ENGINES``.
        scenes: rasters with gaps whose tiles the engines are compared on; none: the built-in sample scene.
        scene_options: how to read them, as for :func:`ecea.runtime.inpaint`: ``bands``, ``mask``, ``stretch``.
        num_heads: attention heads at each level, where the checkpoint's widths do not tell.
        say: called with a line for each step.

    Raises:
        RequestError: where the checkpoint, the scenes or the destination are wrong.
        EceaError: where an engine fails to build, to load or to match PyTorch; no bundle is written.
    """
    target = destination or Path(f"{checkpoint.stem}{SUFFIX}")
    _check_request(checkpoint, target, engines)
    try:
        generator = load_generator(checkpoint, num_heads=num_heads)
    except CheckpointError as error:
        raise RequestError(str(error)) from error
    config = generator.config
    if (config.in_c, config.out_c) != (4, 3):
        raise RequestError(
            f"{checkpoint}: takes {config.in_c} and gives {config.out_c} channels, the runtime's tiles have "
            "4 (image and mask) and 3: export a checkpoint of that configuration"
        )
    say(
        f"checkpoint  {checkpoint}: {_count_parameters(generator) / 1e6:.2f} M parameters, "
        f"tiles of {config.img_size} px"
    )
    tiles = parity_tiles(scenes, config.img_size, scene_options or {})
    expected = reference(generator, tiles)
    say(f"reference   PyTorch on {len(tiles.image)} tiles of {tiles.source}")
    model = trace(generator)
    optimize(model)
    say("traced      to ONNX")
    with _whole_or_nothing(target) as folder:
        records = [
            record for engine in engines for record in _build_engine(engine, model, folder, tiles, expected, say)
        ]
        manifest = {
            "schema": SCHEMA_VERSION,
            "configuration": dataclasses.asdict(config),
            "checkpoint": {"name": checkpoint.name, "sha256": _sha256(checkpoint)},
            "inputs": _describe(INPUTS, (3, 1, 1), config.img_size),
            "outputs": _describe(OUTPUTS, (3, 1), config.img_size),
            "engines": [dataclasses.asdict(record) for record in records],
            "parity_tiles": {"count": len(tiles.image), "source": tiles.source, "sha256": _hash_tiles(tiles)},
            "made_with": _versions(),
        }
        (folder / MANIFEST_NAME).write_text(json.dumps(manifest, indent=1) + "\n")
    return read_bundle(target)


def _build_engine(
    engine: str, model: ir.Model, folder: Path, tiles: Tiles, expected: dict[str, Any], say: Say
) -> Iterator[EngineRecord]:
    """Write the files of one engine, run each on every backend that loads, and record what was measured."""
    with SharedWeights(folder / f"generator.{engine}.weights") as weights:
        made = list(forms(engine))
        for form in made:
            weights.save(build(form, model), folder / form.file_name)
    shared = _describe_file(weights.path)
    for form in made:
        parity = tuple(_check(form, folder, tiles, expected, say))
        yield EngineRecord(engine, form.backends, (_describe_file(folder / form.file_name), shared), parity)


def _check(form: Form, folder: Path, tiles: Tiles, expected: dict[str, Any], say: Say) -> Iterator[dict[str, Any]]:
    for backend in form.checked_on:
        where = f"{form.file_name} on {backend}"
        try:
            session = BACKENDS[backend].load(folder / form.file_name, usable_processors())
        except BackendUnavailable as error:
            say(f"{form.engine:<11} {where}: not compared, {error}")
            continue
        entries = list(compare(session, form.engine, where, tiles, expected))
        session.close()
        for entry in entries:
            say(
                f"{form.engine:<11} {where}: '{entry['output']}' within {entry['max_error']:.1e} of PyTorch "
                f"({entry['psnr_db']:.0f} dB)"
            )
            yield {"backend": backend, **entry}


def _check_request(checkpoint: Path, target: Path, engines: Sequence[str]) -> None:
    unknown = [engine for engine in engines if engine not in ENGINES]
    if unknown or not engines:
        raise RequestError(
            f"engine '{', '.join(unknown)}' cannot be exported by this version: expected {' or '.join(ENGINES)}"
        )
    if target.suffix != SUFFIX:
        raise RequestError(f"{target}: does not end in {SUFFIX}: name the bundle NAME{SUFFIX}")
    if not target.parent.is_dir():
        raise RequestError(f"{target}: the folder {target.parent} does not exist: make it, or name another output")
    if target.exists() and not (target / MANIFEST_NAME).is_file():
        raise RequestError(f"{target}: exists and is no bundle: remove it, or name another output")
    if target.resolve() in checkpoint.resolve().parents:
        raise RequestError(f"{target}: holds the checkpoint, and would be replaced: name another output")
    if not os.access(target.parent, os.W_OK):
        raise RequestError(f"{target}: the folder {target.parent} may not be written: name another output")


@contextmanager
def _whole_or_nothing(target: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``target`` that takes its place if the block succeeds, else is deleted."""
    target = target.resolve()  # a link to a bundle stays, and leads to the new one
    token = secrets.token_hex(4)
    temporary, old = (target.with_name(f".{target.name}.{token}.{state}") for state in ("partial", "old"))
    try:
        temporary.mkdir()
        yield temporary
        if target.exists():
            target.rename(old)
        temporary.rename(target)
    except OSError as error:
        raise EceaError(f"{target}: cannot be written ({error.strerror or error}): is the disk full?") from error
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _count_parameters(generator: Generator) -> int:
    return sum(parameter.numel() for parameter in generator.parameters())


def _describe(names: Sequence[str], channels: Sequence[int], size: int) -> list[dict[str, Any]]:
    return [
        {"name": name, "dtype": "float32", "shape": ["batch", count, size, size]}
        for name, count in zip(names, channels, strict=True)
    ]


def _describe_file(path: Path) -> BundleFile:
    return BundleFile(path.name, _sha256(path), path.stat().st_size)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
