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
from ecea.runtime.paths import is_special

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
SUFFIX = ".ecea"
ENVIRONMENT_VARIABLE = "ECEA_BUNDLE"

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
    """Whether a folder is one, or was before it was damaged."""
    return folder.suffix == SUFFIX and (folder / MANIFEST_NAME).is_file()


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
        manifest = json.loads(raw)
        schema = int(manifest["schema"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise RequestError(f"{manifest_path}: is damaged: export the bundle again") from error
    if schema > SCHEMA_VERSION:
        raise RequestError(
            f"{manifest_path}: has schema {schema}, this version of ecea reads schemas up to {SCHEMA_VERSION}: "
            "upgrade ecea, or export the bundle again with this version"
        )
    try:
        bundle = Bundle(
            path=path,
            sha256=hashlib.sha256(raw).hexdigest(),
            configuration=dict(manifest["configuration"]),
            engines=tuple(_engine_record(entry) for entry in manifest["engines"]),
        )
        if not 1 <= bundle.tile_size <= MAX_TILE_SIZE or schema < 1:
            raise ValueError("tile size")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        what = error if isinstance(error, KeyError | ValueError) else "an entry"  # the others speak of Python alone
        raise RequestError(
            f"{manifest_path}: lacks or garbles {what}, which schema {schema} demands: export the bundle again"
        ) from error
    return bundle


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
                f"{path}: has {size} bytes, the manifest says {file.size}: the file has changed since it was "
                "exported; copy the bundle again or export it again"
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
            digest = _sha256(path)
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


def _engine_record(entry: Mapping[str, Any]) -> EngineRecord:
    files = tuple(BundleFile(str(f["name"]), str(f["sha256"]), int(f["size"])) for f in entry["files"])
    if not files or not all(_is_plain(f.name) and f.size >= 0 for f in files):
        raise ValueError("the files of an engine")
    backends = tuple(map(str, entry["backends"]))
    if entry.get("plan") is not None:
        _demand("backends", list(backends), backends == ("tensorrt",), "tensorrt alone")
    return EngineRecord(
        engine=str(entry["engine"]),
        backends=backends,
        files=files,
        parity=tuple(entry.get("parity", ())),
        arithmetic=tuple(map(str, entry.get("arithmetic", ("f32",)))),
        quantization=entry.get("quantization"),
        plan=_plan_record(entry["plan"], files) if entry.get("plan") is not None else None,
    )


def _plan_record(entry: object, files: tuple[BundleFile, ...]) -> PlanRecord:
    if not isinstance(entry, Mapping):
        raise ValueError(f"a plan ({entry!r}, expected what it was built with)")
    # Plans are programs: one that is not among the files with a hash is not named here either.
    by_name = {file.name: file for file in files}
    batches, memory = entry["batches"], entry["device_memory_bytes"]
    for field in ("tensorrt", "gpu", "driver"):
        _demand(field, entry[field], isinstance(entry[field], str) and entry[field] != "", "a name")
    capability = entry["compute_capability"]
    _demand("compute_capability", capability, bool(re.fullmatch(r"\d+\.\d+", str(capability))), "one such as 9.0")
    _demand("batches", batches, _is_by_batch(batches), "files by tiles in a batch, 1 or more")
    _demand("batches", batches, all(name in by_name for name in batches.values()), "names of the engine's files")
    _demand("device_memory_bytes", memory, _is_by_batch(memory) and memory.keys() == batches.keys(), "bytes by batch")
    half_layers = float(entry["half_layers"])
    _demand("half_layers", half_layers, 0 <= half_layers <= 1, "0 to 1")
    return PlanRecord(
        tensorrt=entry["tensorrt"],
        gpu=entry["gpu"],
        compute_capability=str(capability),
        driver=entry["driver"],
        batches={int(batch): by_name[name] for batch, name in batches.items()},
        plugin_sha256=entry["plugin_sha256"],
        half_layers=half_layers,
        device_memory_bytes={int(batch): int(size) for batch, size in memory.items()},
    )


def _is_by_batch(entry: object) -> bool:
    """Whether the keys are batch sizes, written as numbers are: 4, not 04."""
    return isinstance(entry, Mapping) and bool(entry) and all(re.fullmatch(r"[1-9]\d{0,5}", key) for key in entry)


def _demand(field: str, found: object, good: bool, expected: str) -> None:
    if not good:
        raise ValueError(f"a plan's {field} ({found!r}, expected {expected})")


def _is_plain(name: str) -> bool:
    """Whether a file of this name can only lie beside the manifest."""
    return name not in ("", "..") and Path(name).name == name and "\0" not in name


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
