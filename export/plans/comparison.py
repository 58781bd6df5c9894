"""Attention in three forms, compared: plans with our kernel, with the function body, with TensorRT's own operator."""

import copy
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ecea.export.attention_function import BODY, PLUGIN, STANDARD
from ecea.export.folder import take_over, write_manifest
from ecea.export.parity import Tiles, parity_tiles, tile_sources
from ecea.export.plans.bundling import BACKEND, build_plans, repeated
from ecea.export.plans.machine import Machine, find_machine
from ecea.export.plans.rebuild import fp32_outputs
from ecea.export.say import Say
from ecea.runtime.bundle import MANIFEST_NAME, OUTPUTS, Bundle, check_files, read_bundle
from ecea.runtime.engine import Engine, open_engine
from ecea.runtime.errors import EceaError, RequestError

FORMS = (PLUGIN, BODY, STANDARD)

# What is compared: where our kernel computes, in the precision that all three forms have.
ENGINE = "fp16"

ROUNDS = 30

Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Compared:
    """What became of a plan with one form of attention.

    Attributes:
        build_seconds: to parse, choose kernels and look into the plan; None where no plan was built.
        seconds: of a batch through the runtime, copies among it: one number a round; empty where it did not run.
        to_plugin: largest difference to what the plan with our kernel gives; None where either did not run.
        to_reference: largest difference to the bundle's FP32 engine on ONNX Runtime's CPU provider.
        why_not: the sentence why it was not built or did not run; None where it was and did.
    """

    build_seconds: float | None = None
    seconds: tuple[float, ...] = ()
    to_plugin: float | None = None
    to_reference: float | None = None
    why_not: str | None = None

    @property
    def milliseconds(self) -> float | None:
        """The median of the rounds."""
        return float(np.median(self.seconds)) * 1e3 if self.seconds else None


def compare_attention(
    bundle: Path,
    batch: int,
    *,
    machine: Machine | None = None,
    tiles: Tiles | None = None,
    rounds: int = ROUNDS,
    say: Say = lambda _: None,
) -> dict[str, Compared]:
    """Build a plan of a bundle's fp16 engine with each form of attention and run them in turn.

    The bundle stays as it is: plans are built in a temporary folder.

    Args:
        bundle: with the ONNX files that plans are made of.
        batch: tiles at once.
        machine: to build on and for; None: this one.
        tiles: to run on, repeated where there are fewer than a batch; None: those of the built-in sample scene.
        rounds: in each of which every form runs one batch.
        say: called with a line for each step.

    Returns:
        ``plugin``, ``body`` and ``standard`` -> what became of it. What goes wrong with one keeps no other from being
        compared. There is no ``plugin`` of a network whose attention, if it has any, our kernel is not for.

    Raises:
        BackendUnavailable: where plans cannot be built here at all.
        RequestError: where the bundle is damaged, or holds no such engine.
    """
    contents = read_bundle(bundle)
    source = _source(contents)
    machine = machine or find_machine()
    inputs, expected = _inputs(contents, batch, tiles)
    found: dict[str, Compared] = {}
    with ExitStack() as stack:
        folders = {form: Path(stack.enter_context(tempfile.TemporaryDirectory(suffix=".ecea"))) for form in FORMS}
        for form, folder in folders.items():
            found[form] = _build(contents, source, folder, form, batch, machine, say)
        engines, outputs = _open_and_run(folders, inputs, found, stack)
        seconds = _take_turns(engines, inputs, rounds, found)
    return {form: _compared(found[form], form, outputs, expected, seconds) for form in FORMS}


def _source(contents: Bundle) -> dict[str, Any]:
    """The manifest with nothing in it but the file that plans are made of, which is undamaged."""
    manifest = json.loads((contents.path / MANIFEST_NAME).read_bytes())
    for entry, record in zip(manifest["engines"], contents.engines, strict=True):
        if record.plan is None and record.engine == ENGINE and BACKEND in record.backends:
            check_files(contents, record)
            return {**manifest, "engines": [entry]}
    raise RequestError(
        f"{contents.path}: holds no ONNX file of {ENGINE} for TensorRT: export it again with 'ecea-export CHECKPOINT'"
    )


def _inputs(contents: Bundle, batch: int, tiles: Tiles | None) -> tuple[tuple[np.ndarray, ...], Outputs]:
    """A batch, and what is expected of it."""
    if tiles is None:
        with tile_sources([], contents.tile_size, {}) as sources:
            tiles = parity_tiles(sources)
    many, expected = repeated(tiles, fp32_outputs(contents.path, tiles), batch)
    return many.first(batch), {name: output[:batch] for name, output in expected.items()}


def _build(
    contents: Bundle, source: Mapping[str, Any], folder: Path, form: str, batch: int, machine: Machine, say: Say
) -> Compared:
    """Make ``folder`` a bundle of one plan."""
    manifest = copy.deepcopy(dict(source))
    for file in manifest["engines"][0]["files"]:
        take_over(contents.path / file["name"], folder / file["name"])
    begin = time.monotonic()
    try:
        build_plans(folder, manifest, machine, (batch,), lambda line: say(f"{form:<11} {line}"), {ENGINE: form})
    except (EceaError, ValueError) as error:
        return Compared(why_not=_sentence(error))
    took = time.monotonic() - begin
    if form == PLUGIN and manifest["engines"][0]["plan"]["plugin_sha256"] is None:
        return Compared(why_not=f"{contents.path}: has no attention in {ENGINE} that our kernel is for")
    write_manifest(folder, manifest)
    return Compared(build_seconds=took)


def _open_and_run(
    folders: Mapping[str, Path], inputs: tuple[np.ndarray, ...], found: dict[str, Compared], stack: ExitStack
) -> tuple[dict[str, Engine], dict[str, Outputs]]:
    """Open each plan that was built, for as long as ``stack`` lasts; what it makes of a batch."""
    engines: dict[str, Engine] = {}
    outputs: dict[str, Outputs] = {}
    for form, folder in folders.items():
        if found[form].why_not is not None:
            continue
        with _failure_noted(found, form):
            engine = stack.enter_context(open_engine(folder, engine=ENGINE, backend=BACKEND))
            outputs[form] = dict(zip(OUTPUTS, engine.infer(*inputs), strict=True))
            engines[form] = engine
    return engines, outputs


def _take_turns(
    engines: dict[str, Engine], inputs: tuple[np.ndarray, ...], rounds: int, found: dict[str, Compared]
) -> dict[str, list[float]]:
    """Seconds of every round, so that clocks and heat fall on all alike; who fails is out."""
    seconds: dict[str, list[float]] = {form: [] for form in engines}
    for _ in range(rounds):
        for form, engine in engines.items():
            if found[form].why_not is not None:
                continue
            with _failure_noted(found, form):
                begin = time.perf_counter()
                engine.infer(*inputs)
                seconds[form].append(time.perf_counter() - begin)
    return seconds


@contextmanager
def _failure_noted(found: dict[str, Compared], form: str) -> Iterator[None]:
    try:
        yield
    except EceaError as error:
        found[form] = Compared(build_seconds=found[form].build_seconds, why_not=_sentence(error))


def _compared(
    built: Compared, form: str, outputs: Mapping[str, Outputs], expected: Outputs, seconds: Mapping[str, list[float]]
) -> Compared:
    if built.why_not is not None:
        return built
    ours = outputs.get(PLUGIN)
    return Compared(
        build_seconds=built.build_seconds,
        seconds=tuple(seconds[form]),
        to_plugin=_difference(outputs[form], ours) if ours is not None else None,
        to_reference=_difference(outputs[form], expected),
    )


def _difference(some: Outputs, others: Outputs) -> float:
    return max(float(np.abs(some[name] - others[name]).max()) for name in OUTPUTS)


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())
