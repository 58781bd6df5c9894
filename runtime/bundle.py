"""Reading a bundle: the directory that ``ecea-export`` writes and every other command runs.

A bundle ``NAME.ecea/`` holds ``manifest.json`` and the files that it names. Nothing in it is ever unpickled, and
each file is compared with its recorded hash before it is used.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecea.runtime.errors import RequestError
from ecea.runtime.fields import Field, FieldError
from ecea.runtime.paths import is_special
from ecea.runtime.words import counted

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
SUFFIX = ".ecea"
ENVIRONMENT_VARIABLE = "ECEA_BUNDLE"

INPUTS: Mapping[str, int] = {"image": 3, "edge": 1, "mask": 1}
OUTPUTS: Mapping[str, int] = {"out": 3, "out_edge": 1}
"""What an engine takes and gives: name of the tensor -> channels. All are (B, channels, S, S), float32."""

MAX_TILE_SIZE = 4096  # px; attention grows with the fourth power


@dataclass(frozen=True)
class BundleFile:
    """One file of a bundle, beside the manifest; ``size`` in bytes."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class PlanRecord:
    """What TensorRT plans were built with, and for what: they load nowhere else.

    Attributes:
        tensorrt: version of TensorRT, as ``11.4.0.106``.
        gpu: name of the GPU, as its driver gives it.
        compute_capability: of that GPU, as ``9.0``.
        driver: version of its driver, as ``580.95.05``; noted, for plans do not depend on it.
        batches: batch size -> the plan for it.
        plugin_sha256: hash of the attention kernels in the plans; None for plans without our kernel.
        half_layers: share of the layers that compute in half precision, 0 to 1.
        device_memory_bytes: batch size -> the memory that a plan works in, besides its weights.
    """

    tensorrt: str
    gpu: str
    compute_capability: str
    driver: str
    batches: Mapping[int, BundleFile]
    plugin_sha256: str | None
    half_layers: float
    device_memory_bytes: Mapping[int, int]


@dataclass(frozen=True)
class EngineRecord:
    """One engine of a bundle, in the form that some backends run.

    Attributes:
        engine: the precision, ``fp32``, ``fp16`` or ``int8``.
        backends: the backends that this form is for.
        files: the model first, then what it refers to.
        parity: what was measured against PyTorch at export, one entry for each backend, arithmetic and output.
        arithmetic: what it may compute in: what the export has measured and found good, the fastest first.
        quantization: how it was quantized and what that costs; None where it was not.
        plan: of TensorRT plans, what they were built with; None for every other form.
    """

    engine: str
    backends: tuple[str, ...]
    files: tuple[BundleFile, ...]
    parity: tuple[Mapping[str, Any], ...] = ()
    arithmetic: tuple[str, ...] = ("f32",)
    quantization: Mapping[str, Any] | None = None
    plan: PlanRecord | None = None


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest has been read; its files are checked when an engine is opened."""

    path: Path
    sha256: str
    configuration: Mapping[str, Any]
    engines: tuple[EngineRecord, ...]

    @property
    def tile_size(self) -> int:
        """Side of a tile in pixels."""
        return int(self.configuration["img_size"])

    @property
    def engine_names(self) -> tuple[str, ...]:
        """The precisions that this bundle holds, in the order of its manifest."""
        return tuple(dict.fromkeys(record.engine for record in self.engines))

    def record(self, engine: str, backend: str) -> EngineRecord | None:
        """Return the form of ``engine`` that ``backend`` runs, or None; plans go before what they were built of."""
        matches = [r for r in self.engines if r.engine == engine and backend in r.backends]
        return min(matches, key=lambda record: record.plan is None, default=None)


def is_bundle(folder: Path) -> bool:
    """Whether a folder is one, whatever its name, or by its name was one before its manifest was damaged."""
    manifest = folder / MANIFEST_NAME
    if not os.path.isfile(manifest):  # noqa: PTH113 which raises where the folder may not be entered
        return False
    if folder.suffix == SUFFIX:
        return True
    try:
        content = json.loads(manifest.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.keys() >= {"schema", "configuration", "engines"}


def find_bundle(path: str | os.PathLike[str] | None) -> tuple[Path, str]:
    """Decide which bundle is meant; return it with the reason, for the run to say.

    The order: the one named, ``$ECEA_BUNDLE``, the only ``*.ecea`` in the current directory.

    Raises:
        RequestError: where none of these names exactly one bundle.
    """
    if path is not None:
        return Path(path), "named"
    if named := os.environ.get(ENVIRONMENT_VARIABLE):
        return Path(named), f"${ENVIRONMENT_VARIABLE}"
    here = sorted(Path().glob(f"*{SUFFIX}"))
    if len(here) == 1:
        return here[0], "the only bundle in the current directory"
    found = "no bundle" if not here else f"{len(here)} bundles ({', '.join(p.name for p in here[:3])})"
    raise RequestError(
        f"{Path.cwd()}: found {found} in the current directory, expected exactly one: name it with --bundle or "
        f"${ENVIRONMENT_VARIABLE}, or make one with 'ecea-export CHECKPOINT'"
    )


def read_bundle(path: Path) -> Bundle:
    """Read a bundle's manifest.

    Raises:
        RequestError: where there is no bundle, or its manifest is damaged or of a newer schema.
    """
    manifest_path = path / MANIFEST_NAME
    if is_special(manifest_path):
        raise RequestError(f"{manifest_path}: is a device or a pipe, expected a file: export the bundle again")
    try:
        raw = manifest_path.read_bytes()
    except OSError as error:
        raise RequestError(
            f"{path}: is not a bundle, {MANIFEST_NAME} cannot be read ({error.strerror}): expected a directory "
            "written by ecea-export"
        ) from error
    try:
        manifest = Field(json.loads(raw))
        _check_schema(manifest_path, manifest["schema"].integer(1))
        return Bundle(
            path=path,
            sha256=hashlib.sha256(raw).hexdigest(),
            configuration=_configuration(manifest),
            engines=tuple(_engine_record(entry) for entry in manifest["engines"]),
        )
    except (ValueError, RecursionError) as error:
        what = error if isinstance(error, FieldError) else f"is not JSON ({error})"
        raise RequestError(
            f"{manifest_path}: {what}: the bundle is damaged; copy it again, whole, or export it again"
        ) from error


def _check_schema(manifest_path: Path, schema: int) -> None:
    if schema > SCHEMA_VERSION:
        raise RequestError(
            f"{manifest_path}: has schema {schema}, this version of ecea reads schemas up to {SCHEMA_VERSION}: "
            "upgrade ecea, or export the bundle again with this version"
        )


def check_sizes(bundle: Bundle, record: EngineRecord) -> Path:
    """See that the files of one engine are there and as long as they were, and return the path of its model.

    Raises:
        RequestError: where a file is missing or has another size.
    """
    for file in record.files:
        path = bundle.path / file.name
        try:
            if is_special(path):
                raise OSError(None, "it is a device or a pipe")
            size = path.stat().st_size
        except OSError as error:
            raise _unreadable(path, error) from error
        if size != file.size:
            raise RequestError(
                f"{path}: has {counted(size, 'byte')}, the manifest says {file.size}: the file has changed since "
                "it was exported; copy the bundle again or export it again"
            )
    return bundle.path / record.files[0].name


def check_files(bundle: Bundle, record: EngineRecord) -> Path:
    """Compare the files of one engine with their hashes and return the path of its model.

    Raises:
        RequestError: where a file is missing or is not the one that was exported.
    """
    model = check_sizes(bundle, record)
    for file in record.files:
        path = bundle.path / file.name
        try:
            digest = sha256(path)
        except OSError as error:
            raise _unreadable(path, error) from error
        if digest != file.sha256:
            raise RequestError(
                f"{path}: has sha256 {digest[:12]}, the manifest says {file.sha256[:12]}: the file has changed since "
                "it was exported; copy the bundle again or export it again"
            )
    return model


def _unreadable(path: Path, error: OSError) -> RequestError:
    return RequestError(
        f"{path}: cannot be read ({error.strerror}), although the bundle's manifest names it: copy the bundle again, "
        "whole, or export it again"
    )


def _configuration(manifest: Field) -> dict[str, object]:
    size = manifest["configuration"]["img_size"].integer(1, MAX_TILE_SIZE)
    for tensors in (manifest["inputs"], manifest["outputs"]):
        for tensor in tensors if tensors.given else ():
            shape = tensor["shape"]
            good = isinstance(shape.value, list) and shape.value[-2:] == [size, size]
            shape.demand(good, f"one that ends in {size}, {size}, as configuration.img_size says")
    return manifest["configuration"].mapping()


def _engine_record(entry: Field) -> EngineRecord:
    files = tuple(_file(file) for file in entry["files"])
    entry["files"].demand(len(files) > 0, "one file or more")
    backends = tuple(backend.text() for backend in entry["backends"])
    parity, arithmetic, quantization, plan = (entry[name] for name in ("parity", "arithmetic", "quantization", "plan"))
    if plan.given:
        entry["backends"].demand(backends == ("tensorrt",), "tensorrt alone, which runs plans")
    return EngineRecord(
        engine=entry["engine"].text(),
        backends=backends,
        files=files,
        parity=tuple(measured.mapping() for measured in parity) if parity.given else (),
        arithmetic=tuple(kind.text() for kind in arithmetic) if arithmetic.given else ("f32",),
        quantization=quantization.mapping() if quantization.given else None,
        plan=_plan_record(plan, files) if plan.given else None,
    )


def _file(entry: Field) -> BundleFile:
    name = entry["name"]
    name.demand(_is_plain(name.text()), "the name of a file beside the manifest")
    return BundleFile(name.text(), entry["sha256"].text(), entry["size"].integer(0))


def _plan_record(entry: Field, files: tuple[BundleFile, ...]) -> PlanRecord:
    # Plans are programs: one that is not among the files with a hash is not named here either.
    by_name = {file.name: file for file in files}
    batches, memory = _by_batch(entry["batches"]), _by_batch(entry["device_memory_bytes"])
    for name in batches.values():
        name.demand(name.text() in by_name, "one of the engine's files")
    entry["device_memory_bytes"].demand(memory.keys() == batches.keys(), f"bytes for each of {sorted(batches)} tiles")
    capability, half_layers, plugin = (entry[name] for name in ("compute_capability", "half_layers", "plugin_sha256"))
    capability.demand(re.fullmatch(r"\d+\.\d+", capability.text()) is not None, "one such as 9.0")
    return PlanRecord(
        tensorrt=entry["tensorrt"].text(),
        gpu=entry["gpu"].text(),
        compute_capability=capability.text(),
        driver=entry["driver"].text(),
        batches={batch: by_name[name.text()] for batch, name in batches.items()},
        plugin_sha256=plugin.text() if plugin.given else None,
        half_layers=half_layers.number(0, 1),
        device_memory_bytes={batch: size.integer(0) for batch, size in memory.items()},
    )


def _by_batch(entry: Field) -> dict[int, Field]:
    """Fields by batch sizes, which are written as numbers are: 4, not 04."""
    sizes = entry.mapping()
    good = len(sizes) > 0 and all(re.fullmatch(r"[1-9]\d{0,5}", size) for size in sizes)
    entry.demand(good, "tiles in a batch, 1 or more, with a value for each")
    return {int(size): entry[size] for size in sizes}


def _is_plain(name: str) -> bool:
    """Whether a file of this name can only lie beside the manifest."""
    return name not in ("", "..") and Path(name).name == name and "\0" not in name


def sha256(path: Path) -> str:
    """The hash of a file, which is not held in memory."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
