"""What an export leaves behind: a whole bundle that says what it holds, or nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from ecea.export import exporter
from ecea.export.parity import BATCHES, MAX_ERROR, MIN_PSNR
from ecea.runtime import open_engine
from ecea.runtime.bundle import Bundle
from ecea.runtime.errors import EceaError

Refusal = Callable[..., str]

ENGINES = ["fp32", "fp16", "int8"]
ON_CPU = ("openvino", "cpu")  # the backends that every machine has


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def manifest(exported: Bundle) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((exported.path / "manifest.json").read_text())
    return read


# The manifest


def test_the_configuration_is_the_checkpoints(manifest: dict[str, Any]) -> None:
    assert manifest["schema"] == 1
    assert manifest["configuration"] == {
        "img_size": 64, "in_c": 4, "out_c": 3, "patch_size": 4, "embed_dim": 32, "depth": [1, 2, 1, 1],
        "num_heads": [1, 2, 4, 8], "refine": False, "coarse": [],
    }  # fmt: skip


def test_the_checkpoint_is_identified(manifest: dict[str, Any], small: Any) -> None:
    assert manifest["checkpoint"] == {"name": "small.pth", "sha256": sha256(small.checkpoint)}


def test_inputs_and_outputs(manifest: dict[str, Any], exported: Bundle) -> None:
    """As listed, and as every ONNX file of the bundle has them."""

    def tensor(name: str, channels: int) -> dict[str, Any]:
        return {"name": name, "dtype": "float32", "shape": ["batch", channels, 64, 64]}

    assert manifest["inputs"] == [tensor("image", 3), tensor("edge", 1), tensor("mask", 1)]
    assert manifest["outputs"] == [tensor("out", 3), tensor("out_edge", 1)]
    for record in exported.engines:
        graph = onnx.load(exported.path / record.files[0].name, load_external_data=False).graph
        for listed, values in ((manifest["inputs"], graph.input), (manifest["outputs"], graph.output)):
            found = [(value.name, value.type.tensor_type) for value in values]
            assert [name for name, _ in found] == [entry["name"] for entry in listed]
            assert {kind.elem_type for _, kind in found} == {onnx.TensorProto.FLOAT}
            assert [[d.dim_value for d in kind.shape.dim[1:]] for _, kind in found] == [e["shape"][1:] for e in listed]
            assert all(kind.shape.dim[0].dim_param for _, kind in found)


def test_every_file_is_listed_with_its_hash(manifest: dict[str, Any], exported: Bundle) -> None:
    listed = [file for record in manifest["engines"] for file in record["files"]]
    assert {file["name"] for file in listed} | {"manifest.json"} == {path.name for path in exported.path.iterdir()}
    for file in listed:
        path = exported.path / file["name"]
        assert (file["sha256"], file["size"]) == (sha256(path), path.stat().st_size)


def test_every_engine_has_a_form_for_every_backend(manifest: dict[str, Any], exported: Bundle) -> None:
    assert exported.engine_names == ("fp32", "fp16", "int8")
    forms = [(record["engine"], tuple(record["backends"])) for record in manifest["engines"]]
    for_gpus = {"fp32": ("tensorrt", "cuda"), "fp16": ("tensorrt", "cuda"), "int8": ("tensorrt",)}
    assert sorted(forms) == sorted((e, b) for e in ENGINES for b in (for_gpus[e], ("openvino",), ("cpu",)))
    for record in manifest["engines"]:
        model, weights = (file["name"] for file in record["files"])
        assert model.startswith(f"generator.{record['engine']}.")
        assert weights == f"generator.{record['engine']}.weights"


def test_every_engine_has_been_compared_on_every_backend(manifest: dict[str, Any]) -> None:
    pytest.importorskip("openvino")
    for record in manifest["engines"]:
        checked_on = [backend for backend in ON_CPU if backend in record["backends"]] or ["cpu"]
        compared = [(e["backend"], e["output"]) for e in record["parity"] if e["arithmetic"] == "f32"]
        assert compared == [(backend, output) for backend in checked_on for output in ("out", "out_edge")]
        for entry in record["parity"]:
            assert entry["batches"] == list(BATCHES) == [1, 3, 8]
            assert 0 < entry["max_error"] <= MAX_ERROR[record["engine"]]
            assert entry["psnr_db"] >= MIN_PSNR[record["engine"]]


def test_the_recorded_error_can_be_measured_again(manifest: dict[str, Any], exported: Bundle, small: Any) -> None:
    """The manifest does not flatter: its figure for batch 1, 3 and 8 bounds that of the first three tiles."""
    for engine in ENGINES:
        with open_engine(exported.path, engine=engine, backend="cpu") as opened:
            out, out_edge = opened.infer(*small.tiles.first(3))
        (record,) = (r for r in manifest["engines"] if r["engine"] == engine and r["backends"] == ["cpu"])
        recorded = {entry["output"]: entry["max_error"] for entry in record["parity"]}
        for name, output, expected in zip(recorded, (out, out_edge), small.expected, strict=True):
            assert np.abs(output - expected[:3]).max() <= recorded[name] + 1e-5


def test_tiles_and_versions_are_recorded(manifest: dict[str, Any]) -> None:
    assert manifest["parity_tiles"]["count"] == 8
    assert manifest["parity_tiles"]["source"] == "the built-in sample scene"
    assert len(manifest["parity_tiles"]["sha256"]) == 64
    assert manifest["made_with"]["torch"] == torch.__version__
    assert {"python", "ecea", "torch", "onnx", "onnxscript", "onnxruntime"} <= set(manifest["made_with"])


def test_the_bundle_opens_on_every_backend(exported: Bundle, small: Any) -> None:
    for backend in ON_CPU:
        if backend == "openvino":
            pytest.importorskip("openvino")
        with open_engine(exported.path, backend=backend) as engine:
            assert (engine.tile_size, engine.backend) == (64, backend)
            out, _ = engine.infer(*small.tiles.first(1))
            np.testing.assert_allclose(out, small.expected[0][:1], atol=1e-5)


# Placing the bundle


def test_an_older_bundle_is_replaced_whole(
    small: Any, quick_export: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It stays in use until the new one is whole, and none of its files is left."""
    older = tmp_path / "small.ecea"
    older.mkdir()
    (older / "manifest.json").write_text("{}")
    (older / "generator.int8.onnx").write_bytes(b"of an earlier version")
    monkeypatch.setattr(exporter, "Checker", lambda *_: lambda form, quantization: ((), ("f32",)))
    seen = []
    bundle = exporter.export_bundle(
        small.checkpoint,
        older,
        engines=["fp32"],
        say=lambda line: seen.append((older / "generator.int8.onnx").exists()),
    )
    assert seen
    assert all(seen)
    assert bundle.engine_names == ("fp32",)
    assert sorted(path.name for path in older.iterdir()) == [
        "generator.fp32.cpu.onnx", "generator.fp32.onnx", "generator.fp32.openvino.onnx", "generator.fp32.weights",
        "manifest.json",
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["small.ecea"]


def test_an_older_bundle_comes_back_where_the_new_one_cannot_take_its_place(
    small: Any, empty_export: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two renames there is none of its name."""
    older = tmp_path / "site.ecea"
    older.mkdir()
    (older / "manifest.json").write_text('{"mine": 1}')
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.name.endswith(".partial"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(EceaError, match=r"site\.ecea: cannot be written \(Input/output error\)"):
        exporter.export_bundle(small.checkpoint, older, engines=["fp32"])
    assert (older / "manifest.json").read_text() == '{"mine": 1}'
    assert [path.name for path in tmp_path.iterdir()] == ["site.ecea"]


@pytest.fixture
def empty_export(quick_export: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports write a manifest without engines, at once."""
    monkeypatch.setattr(exporter, "_calibrate", lambda *arguments: None)
    monkeypatch.setattr(exporter, "_write", lambda *arguments: [])


def test_a_link_to_a_bundle_leads_to_the_new_one(small: Any, empty_export: None, tmp_path: Path) -> None:
    older = tmp_path / "store" / "v1.ecea"
    older.mkdir(parents=True)
    (older / "manifest.json").write_text("{}")
    link = tmp_path / "site.ecea"
    link.symlink_to(older)
    exporter.export_bundle(small.checkpoint, link)
    assert link.is_symlink()
    assert json.loads((older / "manifest.json").read_text())["schema"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site.ecea", "store"]
    assert [path.name for path in older.parent.iterdir()] == ["v1.ecea"]


def test_the_bundle_is_named_after_the_checkpoint(
    small: Any, empty_export: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exporter.export_bundle(small.checkpoint).path == Path("small.ecea")
    assert (tmp_path / "small.ecea" / "manifest.json").is_file()


@pytest.mark.parametrize("trouble", [KeyboardInterrupt, OSError(28, "No space left on device"), ValueError])
def test_trouble_leaves_everything_as_it_was(
    trouble: Any, small: Any, quick_export: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    older = tmp_path / "small.ecea"
    older.mkdir()
    (older / "manifest.json").write_text("older")

    def fail(engine: str, made: Any, folder: Path, *_: Any) -> None:
        (folder / "generator.fp32.onnx").write_bytes(b"half of it")
        raise trouble

    monkeypatch.setattr(exporter, "_write", fail)
    with pytest.raises(BaseException) as caught:
        exporter.export_bundle(small.checkpoint, older, engines=["fp32"])
    if isinstance(trouble, OSError):
        assert "No space left on device" in str(caught.value)
        assert isinstance(caught.value, EceaError)
    assert [path.name for path in tmp_path.iterdir()] == ["small.ecea"]
    assert [path.read_text() for path in older.iterdir()] == ["older"]


def test_a_bundle_is_replaced_from_within(
    small: Any,
    empty_export: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_raster: Callable[..., Path],
) -> None:
    """What is read by a path that leads out of it is not in it."""
    shutil.copy(small.checkpoint, tmp_path / "G.pth")
    values = np.full((3, 90, 90), 7, np.uint8)
    values[:, 40:45] = 0
    write_raster(tmp_path / "scene.tif", values, nodata=0)
    (tmp_path / "site.ecea").mkdir()
    (tmp_path / "site.ecea" / "manifest.json").write_text("{}")
    monkeypatch.chdir(tmp_path / "site.ecea")
    exporter.export_bundle(Path("../G.pth"), Path("../site.ecea"), scenes=[Path("../scene.tif")])
    assert json.loads((tmp_path / "site.ecea" / "manifest.json").read_text())["checkpoint"]["name"] == "G.pth"


# What the caller asks for reaches the generator


def test_num_heads_are_those_asked_for(small: Any, empty_export: None, tmp_path: Path) -> None:
    exporter.export_bundle(small.checkpoint, tmp_path / "site.ecea", num_heads=(2, 2, 4, 4))
    manifest = json.loads((tmp_path / "site.ecea" / "manifest.json").read_text())
    assert manifest["configuration"]["num_heads"] == [2, 2, 4, 4]
