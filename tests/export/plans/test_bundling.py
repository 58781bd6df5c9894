"""Plans in a bundle: recorded, compared, replaced whole. TensorRT is faked; ONNX Runtime computes in its place."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("triton", reason="Triton is not installed")
from ecea.export import exporter
from ecea.export.cli import app
from ecea.export.parity import ParityError
from ecea.export.plans import builder, bundling, rebuild
from ecea.export.plans.machine import machine_if
from ecea.runtime.backends import BACKENDS, Backend, Settings, cpu
from ecea.runtime.bundle import Bundle, read_bundle
from ecea.runtime.errors import EceaError, RequestError

Manifest = dict[str, Any]


class Session:
    """What runs plans here: an engine of the bundle for the CPU, with an error of our own."""

    arithmetic = "f16"
    error = 1e-5
    batches: list[int] = []  # noqa: RUF012

    def __init__(self, plan: Path) -> None:
        model = max(plan.parent.glob("generator.fp*.cpu.onnx"))  # of FP32 where there are both: it is faster
        self._session = cpu.load(model, Settings(threads=2))

    def infer(self, image: Any, edge: Any, mask: Any) -> tuple[Any, Any]:
        self.batches.append(len(image))
        out, out_edge = self._session.infer(image, edge, mask)
        return out + np.float32(self.error), out_edge

    def close(self) -> None:
        self._session.close()


@pytest.fixture
def session(world: Any, small: Any, monkeypatch: pytest.MonkeyPatch) -> type[Session]:
    """The backend ``tensorrt``, and a machine to build for it."""
    used = type("Session", (Session,), {"batches": []})
    monkeypatch.setitem(BACKENDS, "tensorrt", Backend(lambda model, settings: used(model), lambda *_: []))
    monkeypatch.setattr(exporter, "machine_if", lambda wanted: (world.machine, ""))
    monkeypatch.setattr(rebuild, "required_machine", lambda: world.machine)
    monkeypatch.setattr(rebuild, "tile_sources", lambda *_: contextlib.nullcontext([]))
    monkeypatch.setattr(rebuild, "parity_tiles", lambda _: small.tiles)
    return used


@pytest.fixture
def whole_bundle(exported: Bundle, tmp_path: Path) -> Path:
    """A copy of a bundle of all three engines, without plans."""
    return Path(shutil.copytree(exported.path, tmp_path / "site.ecea"))


@pytest.fixture
def bundle(whole_bundle: Path) -> Path:
    """The same with the fp16 engine for TensorRT alone, and what plans are compared with: for less to compute."""
    keep(whole_bundle, ("fp16", "tensorrt"), ("fp32", "cpu"))
    return whole_bundle


def keep(bundle: Path, *kept: tuple[str, str]) -> None:
    """Drop all engines but these, each for one backend, and their files."""
    changed = manifest(bundle)
    changed["engines"] = [
        entry for entry in changed["engines"] if any(entry["engine"] == e and b in entry["backends"] for e, b in kept)
    ]
    (bundle / "manifest.json").write_text(json.dumps(changed))
    names = {"manifest.json", *(file["name"] for entry in changed["engines"] for file in entry["files"])}
    for path in bundle.iterdir():
        if path.name not in names:
            path.unlink()


def manifest(path: Path) -> Manifest:
    read: Manifest = json.loads((path / "manifest.json").read_text())
    return read


def plans(path: Path) -> dict[str, Manifest]:
    return {entry["engine"]: entry for entry in manifest(path)["engines"] if entry.get("plan")}


def contents(path: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.iterdir()}


# Rebuilding


def test_each_engine_gets_a_plan_for_each_batch_size(whole_bundle: Path, session: Any) -> None:
    before = contents(whole_bundle)
    said: list[str] = []
    rebuild.rebuild_plans(whole_bundle, [4, 1, 4], say=said.append)
    found = plans(whole_bundle)
    assert set(found) == {"fp32", "fp16", "int8"}
    for engine, entry in found.items():
        names = [f"generator.{engine}.b1.plan", f"generator.{engine}.b4.plan"]
        assert entry["backends"] == ["tensorrt"]
        assert [file["name"] for file in entry["files"]] == names
        assert entry["plan"].pop("half_layers") == pytest.approx(0.0 if engine == "fp32" else 0.7, abs=0.2)
        sha256 = entry["plan"].pop("plugin_sha256")
        assert sha256 is None if engine == "fp32" else len(sha256) == 64
        assert entry["plan"] == {
            "tensorrt": "11.4.0.106",
            "gpu": "NVIDIA H100 80GB HBM3",
            "compute_capability": "9.0",
            "driver": "580.95.05",
            "batches": dict(zip(("1", "4"), names, strict=True)),
            "device_memory_bytes": {"1": 3 * 4 * 64**2, "4": 4 * 3 * 4 * 64**2},
        }
    after = contents(whole_bundle)
    for entry in found.values():
        for file in entry["files"]:
            assert after[file["name"]] == file["sha256"]
            assert (whole_bundle / file["name"]).stat().st_size == file["size"]
    # What was there stays; the ONNX files that plans are made of among it.
    assert {name: digest for name, digest in after.items() if ".plan" not in name and name != "manifest.json"} == {
        name: digest for name, digest in before.items() if name != "manifest.json"
    }
    assert len([line for line in said if "kernels chosen" in line]) == 6
    # Who looks for what TensorRT runs finds plans, and CUDA the file that they are made of.
    read = read_bundle(whole_bundle)
    for engine in ("fp32", "fp16", "int8"):
        for backend, name in (("tensorrt", f"generator.{engine}.b1.plan"), ("cuda", f"generator.{engine}.onnx")):
            record = read.record(engine, backend)
            if (engine, backend) == ("int8", "cuda"):
                assert record is None
                continue
            assert record is not None
            assert record.files[0].name == name
    assert read.engine_names == ("fp32", "fp16", "int8")


def test_parity_is_measured_through_the_runtime_at_every_size(bundle: Path, session: Any) -> None:
    rebuild.rebuild_plans(bundle, [1, 16])
    assert session.batches == [1, 3, 8, 16]
    for entry in plans(bundle).values():
        assert entry["arithmetic"] == ["f16"]
        assert [output["output"] for output in entry["parity"]] == ["out", "out_edge"]
        for output in entry["parity"]:
            assert (output["backend"], output["arithmetic"]) == ("tensorrt", "f16")
            assert output["against"] == "the bundle's fp32 engine on ONNX Runtime's CPU"
            assert output["batches"] == [1, 3, 8, 16]
            assert output["max_error"] == pytest.approx({"out": 1e-5, "out_edge": 0}[output["output"]], rel=0.1)


def test_what_an_int8_plan_reaches_is_measured_on_the_plan(whole_bundle: Path, session: Any) -> None:
    keep(whole_bundle, ("int8", "tensorrt"), ("fp32", "cpu"))
    session.error = 0.1
    rebuild.rebuild_plans(whole_bundle, [1])
    entry = plans(whole_bundle)["int8"]
    assert entry["quantization"]["reached_db"] == pytest.approx(20, abs=0.1)
    assert {output["tiles"] for output in entry["parity"]} == {"the built-in sample scene"}
    said = exporter.below_target(read_bundle(whole_bundle), rebuilt=True)
    assert said is not None
    assert "int8 reaches 20.0 dB for tensorrt, 25 dB were asked for" in said
    assert said.endswith("or export the checkpoint again, with a lower --int8-target-db or calibrated on more scenes")


def test_a_rebuild_is_not_blamed_for_what_an_export_has_missed(bundle: Path, session: Any) -> None:
    changed = manifest(bundle)
    for entry in changed["engines"]:
        if entry["backends"] == ["cpu"]:  # which misses what was asked for, as it was allowed to
            entry["quantization"] = {"style": "unsigned", "target_db": 90.0, "reached_db": 40.0, "layers": []}
    (bundle / "manifest.json").write_text(json.dumps(changed))
    done = CliRunner().invoke(app, ["--rebuild-plans", str(bundle), "--batch", "1"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert exporter.below_target(read_bundle(bundle)) is not None


def test_heads_that_the_kernel_is_not_for_get_plans_without_it(
    bundle: Path, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundling, "HEAD_DIMS", (64, 128))
    said: list[str] = []
    rebuild.rebuild_plans(bundle, [1, 2], say=said.append)
    line = "plan        fp16: attention without our kernel, which is not for heads of 32 channels"
    assert said.count(line) == 1
    assert plans(bundle)["fp16"]["plan"]["plugin_sha256"] is None


def test_plans_are_compared_on_the_scenes_that_are_named(
    bundle: Path, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Mock(side_effect=RequestError("this is enough"))
    monkeypatch.setattr(rebuild, "tile_sources", opened)
    with pytest.raises(RequestError, match="this is enough"):
        rebuild.rebuild_plans(bundle, scenes=["a.tif"], scene_options={"mask": "zero"})
    opened.assert_called_once_with(["a.tif"], 64, {"mask": "zero"})


def test_rebuilding_replaces_plans_and_keeps_their_batch_sizes(bundle: Path, session: Any) -> None:
    rebuild.rebuild_plans(bundle, [2])
    rebuild.rebuild_plans(bundle)
    assert [entry["plan"]["batches"] for entry in plans(bundle).values()] == [{"2": "generator.fp16.b2.plan"}]
    rebuild.rebuild_plans(bundle, [3])
    assert [path.name for path in bundle.glob("*.plan")] == ["generator.fp16.b3.plan"]


def test_a_bundle_that_one_works_in_is_rebuilt(bundle: Path, session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle)
    rebuilt = rebuild.rebuild_plans(Path(), [1])
    importlib.import_module("ecea.export.table").print_bundle(rebuilt)
    assert rebuilt == read_bundle(bundle)
    assert set(plans(bundle)) == {"fp16"}


def test_what_does_not_belong_to_a_bundle_is_not_lost(bundle: Path, session: Any) -> None:
    (bundle / "scene.tif").write_bytes(b"mine")
    message = r"site\.ecea: holds 'scene\.tif', which its manifest does not name .*: move it elsewhere"
    unchanged(bundle, lambda: rebuild.rebuild_plans(bundle), RequestError, message)


def unchanged(bundle: Path, call: Callable[[], object], error: type[Exception], message: str) -> None:
    before = contents(bundle)
    with pytest.raises(error, match=message):
        call()
    assert contents(bundle) == before
    assert [path.name for path in bundle.parent.iterdir() if path.suffix != ""] == [bundle.name]


def test_a_plan_that_computes_something_else_is_refused(bundle: Path, session: Any) -> None:
    session.error = 0.2
    message = r"generator.fp16 on tensorrt: output 'out' differs from the bundle's fp32 engine on ONNX .* by 0.2"
    unchanged(bundle, lambda: rebuild.rebuild_plans(bundle), ParityError, message)


def test_a_plan_that_cannot_be_built_leaves_the_bundle(bundle: Path, session: Any, world: Any) -> None:
    world.fail = {"memory"}
    unchanged(bundle, lambda: rebuild.rebuild_plans(bundle), builder.PlanError, "memory, of which .* ran out meanwhile")


def test_a_damaged_onnx_file_is_not_built_from(bundle: Path, session: Any) -> None:
    (bundle / "generator.fp16.onnx").write_bytes(b"")
    unchanged(bundle, lambda: rebuild.rebuild_plans(bundle), RequestError, "fp16.onnx: has 0 bytes, the manifest says")


@pytest.mark.parametrize(
    ("backend", "message"),
    [("tensorrt", "holds no ONNX file for TensorRT"), ("cpu", "holds no fp32 engine for the CPU to compare")],
)
def test_a_bundle_that_lacks_what_is_needed(backend: str, message: str, bundle: Path, session: Any) -> None:
    changed = manifest(bundle)
    changed["engines"] = [entry for entry in changed["engines"] if backend not in entry["backends"]]
    (bundle / "manifest.json").write_text(json.dumps(changed))
    unchanged(bundle, lambda: rebuild.rebuild_plans(bundle), RequestError, message)


def test_batches_must_be_possible() -> None:
    assert bundling.check_batches([8, 1, 8]) == (1, 8)
    with pytest.raises(RequestError, match="a batch of 0 tiles is impossible"):
        bundling.check_batches([1, 0])


# Exporting


def test_an_export_builds_plans_where_it_can(
    small: Any, session: Any, quick_export: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "Checker", lambda *_: lambda form, record: ((), ("f32",)))
    path = tmp_path / "a.ecea"
    exporter.export_bundle(small.checkpoint, path, engines=["fp16"], batches=[1])
    (entry,) = plans(path).values()
    assert [output["against"] for output in entry["parity"]] == ["PyTorch", "PyTorch"]
    importlib.import_module("ecea.export.table").print_bundle(read_bundle(path))


@pytest.mark.parametrize(
    ("fail", "error", "why"),
    [
        ({"memory"}, 1e-5, "generator.fp16.b1.plan: TensorRT builds no plan"),
        (set(), 0.2, "generator.fp16 on tensorrt: output 'out' differs from PyTorch by 0.2"),
    ],
)
def test_plans_that_nobody_asked_for_cost_no_bundle(
    fail: set[str],
    error: float,
    why: str,
    small: Any,
    bundle: Path,
    session: Any,
    world: Any,
    quick_export: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write_engines(source: Any, engines: Any, target_db: Any, folder: Path, say: Any) -> Any:
        shutil.copytree(bundle, folder, dirs_exist_ok=True)
        return read_bundle(bundle).engines

    monkeypatch.setattr(exporter, "_write_engines", write_engines)
    monkeypatch.setattr(exporter, "tile_sources", lambda *_: contextlib.nullcontext([]))
    monkeypatch.setattr(exporter, "optimize", lambda model: None)
    world.fail, session.error = fail, error
    said: list[str] = []
    path = tmp_path / "a.ecea"
    exporter.export_bundle(small.checkpoint, path, engines=["fp16"], batches=[1], say=said.append)
    assert said[-1].startswith(f"plans       none, {why}")
    assert said[-1].endswith(f"; 'ecea-export --rebuild-plans {path}' tries again")
    assert "not written" not in said[-1]
    assert read_bundle(path).engine_names == ("fp32", "fp16")
    assert not plans(path)
    assert not list(path.glob("*.plan"))
    asked_for = tmp_path / "b.ecea"
    with pytest.raises(EceaError, match=rf"^{why}.*; --no-tensorrt leaves plans out$"):
        exporter.export_bundle(small.checkpoint, asked_for, engines=["fp16"], batches=[1], tensorrt=True)
    assert not asked_for.exists()


def test_an_export_without_tensorrt_says_why_there_are_no_plans(
    small: Any, quick_export: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "_write", lambda *_: [])
    monkeypatch.setattr(exporter, "machine_if", lambda wanted: (None, "the NVIDIA driver finds no GPU"))
    said: list[str] = []
    exporter.export_bundle(small.checkpoint, tmp_path / "a.ecea", engines=["fp16"], say=said.append)
    assert said[-1] == "plans       none, the NVIDIA driver finds no GPU"
    assert not plans(tmp_path / "a.ecea")


def test_the_checkpoint_that_was_exported_is_the_one_that_is_named(
    small: Any, quick_export: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one may lie there by the time that the manifest is written."""
    monkeypatch.setattr(exporter, "_write", lambda *_: [])
    path = Path(shutil.copy(small.checkpoint, tmp_path / "G.pth"))
    before = hashlib.sha256(path.read_bytes()).hexdigest()

    def replace(line: str) -> None:
        if line.startswith("traced"):
            path.write_bytes(b"another training's")

    exporter.export_bundle(path, tmp_path / "a.ecea", engines=["fp16"], tensorrt=False, say=replace)
    assert manifest(tmp_path / "a.ecea")["checkpoint"] == {"name": "G.pth", "sha256": before}


def test_without_a_machine_nothing_is_rebuilt(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> None:
        raise importlib.import_module("ecea.runtime.errors").BackendUnavailable("TensorRT cannot be imported")

    monkeypatch.setattr("ecea.export.plans.machine.require_gpu", lambda: None)
    monkeypatch.setattr("ecea.export.plans.machine.find_machine", unavailable)
    assert machine_if(None) == (None, "TensorRT cannot be imported")
    unchanged(
        bundle, lambda: rebuild.rebuild_plans(bundle), RequestError, "plans cannot be built here, TensorRT cannot"
    )
