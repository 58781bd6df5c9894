"""Plans in a bundle: built for each engine and batch size, recorded in the manifest, compared with what is expected."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ecea.export.attention_function import BODY, PLUGIN
from ecea.export.folder import describe_file, write_manifest
from ecea.export.int8 import at_least
from ecea.export.parity import BATCHES, Tiles, compare
from ecea.export.plans.machine import Machine
from ecea.export.say import Say
from ecea.kernels.tactics import HEAD_DIMS
from ecea.runtime.backends.batch import check_batch
from ecea.runtime.engine import open_engine
from ecea.runtime.words import counted

if TYPE_CHECKING:
    from ecea.export.plans.builder import Plan

BACKEND = "tensorrt"
DEFAULT_BATCHES = (1, 4)

Entry = dict[str, Any]


def check_batches(batches: Sequence[int]) -> tuple[int, ...]:
    """The batch sizes in order, each once.

    Raises:
        RequestError: where one is impossible.
    """
    for batch in batches:
        check_batch(batch)
    return tuple(sorted(set(batches)))


# What the plans of each engine are made with: our kernel is for half precision.
ATTENTION = {"fp32": BODY, "fp16": PLUGIN, "int8": PLUGIN}


def build_plans(
    folder: Path,
    manifest: Entry,
    machine: Machine,
    batches: Sequence[int],
    say: Say,
    attention: Mapping[str, str] = ATTENTION,
) -> None:
    """Build a plan of every ONNX file for TensorRT in a bundle, for each batch size.

    Args:
        folder: the bundle, being written.
        manifest: gets an entry for the plans of each engine, before that of the ONNX file: who looks for what
            TensorRT runs finds the plans first. Existing ones are replaced.
        machine: TensorRT and the GPU.
        batches: tiles in a batch, ascending.
        say: called with a line for each step.
        attention: engine -> form of attention; engines that are not named get no plans.

    Raises:
        PlanError: where a plan cannot be built, or is not what was asked for.
    """
    entries: list[Entry] = []
    for entry in manifest["engines"]:
        if entry.get("plan"):
            continue
        if BACKEND in entry["backends"] and entry["engine"] in attention:
            entries.append(_build_engine(folder, entry, machine, batches, say, attention[entry["engine"]]))
        entries.append(entry)
    manifest["engines"] = entries


def prove_plans(
    folder: Path, manifest: Entry, tiles: Tiles, expected: Mapping[str, np.ndarray], against: str, say: Say
) -> None:
    """Run the plans of a bundle as its users will and compare them; what was measured goes into the manifest.

    Args:
        folder: the bundle, being written; its manifest is written here.
        manifest: with the entries of :func:`build_plans`.
        tiles: to compare on.
        expected: what each output should be.
        against: what has computed that, for messages and the manifest.
        say: called with a line for each output.

    Raises:
        ParityError: where an engine is out of tolerance at any batch size, those of its plans among them.
        EceaError: where the backend does not load a plan.
    """
    write_manifest(folder, manifest)
    for entry in manifest["engines"]:
        if not entry.get("plan"):
            continue
        name, where = entry["engine"], f"generator.{entry['engine']} on {BACKEND}"
        sizes = sorted({*BATCHES, *map(int, entry["plan"]["batches"])})
        many, wanted = repeated(tiles, expected, sizes[-1])
        with open_engine(folder, engine=name, backend=BACKEND) as engine:
            measured = list(compare(engine, name, where, many, wanted, batches=sizes, against=against))
            entry["arithmetic"] = [engine.arithmetic]
        for output in measured:
            say(
                f"{name:<11} {where}: '{output['output']}' within {output['max_error']:.1e} of {against} "
                f"({output['psnr_db']:.0f} dB)"
            )
        known = {"backend": BACKEND, "arithmetic": entry["arithmetic"][0], "against": against, "tiles": tiles.source}
        entry["parity"] = [{**known, **output} for output in measured]
        if quantization := entry["quantization"]:
            (picture,) = (output for output in measured if output["output"] == "out")
            entry["quantization"] = {**quantization, "reached_db": at_least(picture["missing_psnr_db"])}
    write_manifest(folder, manifest)


def drop_plans(folder: Path, manifest: Entry) -> None:
    """Take out of a bundle, being written, what :func:`build_plans` has made so far."""
    manifest["engines"] = [entry for entry in manifest["engines"] if not entry.get("plan")]
    for plan in folder.glob("*.plan"):
        plan.unlink()
    write_manifest(folder, manifest)


def _build_engine(
    folder: Path, source: Entry, machine: Machine, batches: Sequence[int], say: Say, attention: str
) -> Entry:
    """Build the plans of one engine into the folder; their entry for the manifest."""
    # With them comes Triton, which is not wherever networks are exported.
    from ecea.export.plans.builder import build_plan
    from ecea.export.plans.network import read_network

    engine = source["engine"]
    onnx_path = folder / source["files"][0]["name"]
    plans: dict[str, Plan] = {}
    files: dict[str, str] = {}
    for batch in batches:
        network = read_network(onnx_path, batch, attention)
        if wide := next((p.head_dim for p in network.attention if p.head_dim not in HEAD_DIMS), None):
            say(f"plan        {engine}: attention without our kernel, which is not for heads of {wide} channels")
            attention = BODY
            network = read_network(onnx_path, batch, attention)
        name = f"generator.{engine}.b{batch}.plan"
        plan = build_plan(machine, network, name, engine, say)
        (folder / name).write_bytes(plan.data)
        plans[str(batch)] = dataclasses.replace(plan, data=b"")  # some hundred megabytes, and written by now
        files[str(batch)] = name
        found = plan.inspection
        say(
            f"plan        {name}: {counted(found.layers, 'layer')}, {found.half_layers:.0%} in half precision, "
            f"{found.plugin_layers} of them our attention; {found.device_memory_bytes / 1e6:.0f} MB on the GPU"
        )
    gpu = machine.gpu
    return {
        "engine": engine,
        "backends": [BACKEND],
        "files": [dataclasses.asdict(describe_file(folder / name)) for name in files.values()],
        "parity": [],
        "arithmetic": ["f32"],
        "quantization": source.get("quantization"),
        "plan": {
            "tensorrt": str(machine.trt.__version__),
            "gpu": gpu.name,
            "compute_capability": gpu.compute_capability,
            "driver": gpu.driver,
            "batches": files,
            "plugin_sha256": next(iter(plans.values())).plugin_sha256,
            "half_layers": round(min(plan.inspection.half_layers for plan in plans.values()), 3),
            "device_memory_bytes": {batch: plan.inspection.device_memory_bytes for batch, plan in plans.items()},
        },
    }


def repeated(tiles: Tiles, expected: Mapping[str, np.ndarray], count: int) -> tuple[Tiles, dict[str, np.ndarray]]:
    """The tiles over and over, at least ``count`` of them, and what is expected of each."""

    def repeat(array: np.ndarray) -> np.ndarray:
        return np.resize(array, (max(count, len(array)), *array.shape[1:]))

    many = Tiles(repeat(tiles.image), repeat(tiles.edge), repeat(tiles.mask), tiles.source)
    return many, {name: repeat(array) for name, array in expected.items()}
