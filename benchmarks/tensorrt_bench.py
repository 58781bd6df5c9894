"""A machine with TensorRT, and what the claims of ``tensorrt_claims.py`` share: bundles and plans, each made once."""

import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from ecea.export.attention_function import PLUGIN
from ecea.export.exporter import export_bundle
from ecea.export.parity import Tiles, parity_tiles, tile_sources
from ecea.export.plans.builder import Plan, build_plan
from ecea.export.plans.bundling import ATTENTION, build_plans, prove_plans
from ecea.export.plans.comparison import Compared, compare_attention
from ecea.export.plans.machine import Machine
from ecea.export.plans.network import read_network
from ecea.export.plans.rebuild import REFERENCE, fp32_outputs, rebuild_plans
from ecea.model import GeneratorConfig
from ecea.model.untrained import untrained_state_dict

BATCHES = (1, 4)
ROUNDS = 30  # of each form of attention, for its median time

T = TypeVar("T")


def made_once(make: Callable[["Bench"], T]) -> cached_property[T]:
    """A property that takes minutes to make: where that fails, all claims get the reason, and it is not tried again."""

    def attempt(bench: "Bench") -> T:
        if make not in bench.failures:
            try:
                return make(bench)
            except Exception as error:
                bench.failures[make] = error
        raise bench.failures[make]

    return cached_property(attempt)


class Bench:
    """A machine with TensorRT, and what the claims share.

    Args:
        machine: TensorRT and the GPU.
        folder: for bundles; emptied by the caller.
        config: of the generator that plans are built of.
        say: told each step.

    Attributes:
        failures: what could not be made, and why.
    """

    def __init__(self, machine: Machine, folder: Path, config: GeneratorConfig, say: Callable[[str], None]) -> None:
        self.machine = machine
        self.folder = folder
        self.config = config
        self.say = say
        self.failures: dict[Callable[..., Any], Exception] = {}

    @made_once
    def bundle(self) -> Path:
        """A bundle of all three engines, without plans."""
        checkpoint = self.folder / "untrained.pth"
        torch.save(untrained_state_dict(self.config, seed=1), checkpoint)
        path = self.folder / "onnx.ecea"
        export_bundle(checkpoint, path, int8_target_db=15, tensorrt=False, say=self.say)
        return path

    @made_once
    def planned(self) -> Path:
        """The same with plans, each of which has been compared."""
        path = Path(shutil.copytree(self.bundle, self.folder / "plans.ecea"))
        rebuild_plans(path, BATCHES, say=self.say)
        return path

    @made_once
    def tiles(self) -> Tiles:
        with tile_sources([], self.config.img_size, {}) as sources:
            return parity_tiles(sources)

    @made_once
    def compared(self) -> dict[int, dict[str, Compared]]:
        """Batch size -> form of attention -> what became of the plan with it."""
        return {batch: self._compare(batch) for batch in BATCHES}

    def _compare(self, batch: int) -> dict[str, Compared]:
        return compare_attention(
            self.bundle, batch, machine=self.machine, tiles=self.tiles, rounds=ROUNDS, say=self.say
        )

    @made_once
    def plans(self) -> dict[str, Plan]:
        """A plan of each engine for one tile."""
        return {engine: self.build(engine) for engine in ATTENTION}

    def build(self, engine: str) -> Plan:
        network = read_network(self.bundle / f"generator.{engine}.onnx", 1, ATTENTION[engine])
        return build_plan(self.machine, network, f"generator.{engine}.b1.plan", engine, self.say)

    def parity(self) -> list[dict[str, Any]]:
        """Of fp16 plans with the plugin that are built anew."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            path = Path(shutil.copytree(self.bundle, Path(folder) / "anew.ecea"))
            manifest = json.loads((path / "manifest.json").read_text())
            build_plans(path, manifest, self.machine, BATCHES, self.say, {"fp16": PLUGIN})
            prove_plans(path, manifest, self.tiles, fp32_outputs(path, self.tiles), REFERENCE, self.say)
        return next(entry["parity"] for entry in manifest["engines"] if entry.get("plan"))
