"""The INT8 engine of a bundle: what the manifest says of it can be found in its files and measured again."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from ecea.calibration.tiles import tile_hash
from ecea.export import exporter
from ecea.export.cli import app
from ecea.export.exporter import below_target
from ecea.export.parity import tile_sources
from ecea.export.table import print_bundle
from ecea.runtime.backends import BACKENDS, Settings
from ecea.runtime.bundle import OUTPUTS, Bundle, read_bundle

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

STYLES = {"openvino": "unsigned", "cpu": "chained", "tensorrt": "symmetric"}


@pytest.fixture(scope="module")
def manifest(exported: Bundle) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((exported.path / "manifest.json").read_text())
    return read


@pytest.fixture(scope="module")
def records(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return [record for record in manifest["engines"] if record["engine"] == "int8"]


# The manifest


def test_only_int8_has_a_record_of_quantization(manifest: dict[str, Any]) -> None:
    assert {record["engine"] for record in manifest["engines"] if record["quantization"]} == {"int8"}
    assert {record["engine"] for record in manifest["engines"] if not record["quantization"]} == {"fp32", "fp16"}


def test_each_form_has_its_style_and_is_within_the_target(records: list[dict[str, Any]]) -> None:
    assert {record["backends"][0]: record["quantization"]["style"] for record in records} == STYLES
    for record in records:
        quantization = record["quantization"]
        assert quantization["target_db"] == 25
        assert 25 <= quantization["reached_db"] < 60
        for entry in record["parity"]:
            if entry["output"] == "out":
                assert entry["missing_psnr_db"] >= 25


def test_the_layers_listed_are_those_of_the_files(records: list[dict[str, Any]], exported: Bundle) -> None:
    for record in records:
        graph = onnx.load(exported.path / record["files"][0]["name"], load_external_data=False).graph
        makers = {name: node.op_type for node in graph.node for name in node.output}
        stored = {tensor.name for tensor in graph.initializer}
        with_weights = {
            node.name: makers.get(node.input[1]) == "DequantizeLinear"
            for node in graph.node
            if node.op_type in ("Conv", "MatMul")
            and (node.input[1] in stored or makers[node.input[1]] == "DequantizeLinear")
        }
        listed = {layer["name"]: layer["precision"] == "int8" for layer in record["quantization"]["layers"]}
        assert listed == with_weights
        assert all(listed.values())
        assert len(listed) > 50


@pytest.mark.parametrize("backend", ["openvino", "cpu"])
def test_the_accuracy_can_be_measured_again(
    backend: str, records: list[dict[str, Any]], exported: Bundle, small: Any
) -> None:
    pytest.importorskip({"cpu": "onnxruntime", "openvino": "openvino"}[backend])
    (record,) = (record for record in records if record["backends"] == [backend])
    session = BACKENDS[backend].load(exported.path / record["files"][0]["name"], Settings(threads=2))
    squares = []
    for i in range(8):
        out, _ = session.infer(*small.tiles.one(i))
        missing = np.broadcast_to(small.tiles.mask[i] == 1, out[0].shape)
        squares.append(np.square((out[0] - small.expected[0][i])[missing], dtype=np.float64))
    session.close()
    measured = -10 * np.log10(np.concatenate(squares).mean())
    assert record["quantization"]["reached_db"] == pytest.approx(measured, abs=0.05)


def test_calibration_tiles_are_recorded_and_others_than_those_measured_on(manifest: dict[str, Any], small: Any) -> None:
    calibration = manifest["calibration"]
    assert calibration["seed"] == 0
    assert len(calibration["tiles"]) == 16
    with tile_sources([], 64, {}) as sources:
        hashes = [tile_hash(*tile) for tile in sources[0].tiles()]
    assert [record["sha256"] for record in calibration["tiles"]] == [
        hashes[record["number"]] for record in calibration["tiles"]
    ]
    assert len({record["number"] for record in calibration["tiles"]}) == 16
    measured_on = {tile_hash(*(part[0] for part in small.tiles.one(i))) for i in range(8)}
    assert not measured_on & {record["sha256"] for record in calibration["tiles"]}


def test_the_forms_share_weights_of_a_quarter_of_the_size(manifest: dict[str, Any]) -> None:
    size = {file["name"]: file["size"] for record in manifest["engines"] for file in record["files"]}
    assert size["generator.int8.weights"] < 0.35 * size["generator.fp32.weights"]


def test_arithmetic_is_what_was_measured(manifest: dict[str, Any]) -> None:
    for record in manifest["engines"]:
        assert record["arithmetic"][-1] == "f32"
        assert set(record["arithmetic"]) == {entry["arithmetic"] for entry in record["parity"]}
        if record["engine"] == "fp32":
            assert record["arithmetic"] == ["f32"]


# The table


def test_the_table_has_a_line_for_each_measurement(exported: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    print_bundle(exported)
    head, *lines, last = capsys.readouterr().out.splitlines()
    assert last.startswith(f"bundle      {exported.path}: {', '.join(exported.engine_names)}; ")
    assert re.split(r" {2,}", head.strip()) == [
        "engine", "file", "run on", "MB", "times PyTorch", "largest error", "dB in gaps", "layers in INT8",
    ]  # fmt: skip
    measured = [(record, entry) for record in exported.engines for entry in record.parity if entry["output"] == "out"]
    assert len(lines) == len(measured) >= 9
    for line, (record, entry) in zip(lines, measured, strict=True):
        cells = re.split(r" {2,}", line.strip())
        assert cells[:2] == [record.engine, record.files[0].name]
        assert cells[2] == entry["backend"] + (" in bf16" if entry["arithmetic"] == "bf16" else "")
        assert float(cells[5]) == pytest.approx(entry["max_error"], rel=0.06)
        assert float(cells[6]) == pytest.approx(entry["missing_psnr_db"], abs=0.06)
        if record.quantization:
            count = len(record.quantization["layers"])
            assert cells[7] == f"{count} of {count}"
        else:
            assert len(cells) == 7


# Below the target


@pytest.fixture
def missed(exported: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle as an export leaves it whose forms did not all reach 90 dB; the command gives it, at once."""
    folder = tmp_path / "missed.ecea"
    shutil.copytree(exported.path, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for record in manifest["engines"]:
        if record["quantization"]:
            reached = {"openvino": 40.06, "cpu": 95.0, "tensorrt": 38.0}[record["backends"][0]]
            record["quantization"] |= {"target_db": 90.0, "reached_db": reached}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(exporter, "export_bundle", lambda *arguments, **options: read_bundle(folder))
    return read_bundle(folder)


def test_what_misses_the_target_is_told(missed: Bundle, exported: Bundle) -> None:
    said = below_target(missed)
    assert said is not None
    assert said.startswith(
        f"{missed.path}: int8 reaches 40.1 dB for openvino; 38.0 dB for tensorrt, 90 dB were asked for"
    )
    assert "--allow-below-target" in said
    assert below_target(exported) is None


def test_a_missed_target_is_a_failure_unless_it_is_allowed(missed: Bundle) -> None:
    done = CliRunner().invoke(app, ["G.pth"])
    assert done.exit_code == 1
    assert done.stderr == f"ecea-export: {below_target(missed)}\n"
    assert "generator.int8.openvino.onnx" in done.stdout  # the table is there all the same
    done = CliRunner().invoke(app, ["G.pth", "--allow-below-target"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"warning     {below_target(missed)}"


# Scenes to calibrate on


@pytest.fixture
def calibrated(small: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """``calibrated(scene)``: the manifest and what was said; everything but the engines is made."""
    expected = dict(zip(OUTPUTS, small.expected, strict=True))
    monkeypatch.setattr(exporter, "trace", lambda network, tile_size: small.traced.clone())
    monkeypatch.setattr(exporter, "reference", lambda generator, tiles: expected)
    monkeypatch.setattr(exporter, "_write", lambda *arguments: [])

    def export(*scenes: Path) -> tuple[dict[str, Any], list[str]]:
        said: list[str] = []
        exporter.export_bundle(small.checkpoint, tmp_path / "a.ecea", scenes=scenes, engines=["int8"], say=said.append)
        return json.loads((tmp_path / "a.ecea" / "manifest.json").read_text()), said

    return export


def test_one_tile_is_calibrated_and_measured_on_with_a_warning(
    calibrated: Callable[..., Any], tmp_path: Path, write_raster: Callable[..., Path]
) -> None:
    values = np.random.default_rng(0).integers(1, 255, (3, 40, 40), dtype=np.uint8)
    values[:, 10:12] = 0
    manifest, said = calibrated(write_raster(tmp_path / "one.tif", values, nodata=0))
    (tile,) = manifest["calibration"]["tiles"]
    assert (tile["source"], tile["number"]) == ("one.tif", 0)
    # The tile is 64 px wide, the scene 40: its edge is repeated, the two rows of gap among it.
    assert tile["gap_share"] == pytest.approx(2 / 64)
    assert any("INT8 is measured on the tiles that it is calibrated on" in line for line in said)
    assert not any("synthetic" in line for line in said)


@pytest.mark.parametrize("dtype", ["float32", "int16", "uint16"])
def test_scenes_of_any_type_are_calibrated_on(
    dtype: str, calibrated: Callable[..., Any], tmp_path: Path, write_raster: Callable[..., Path]
) -> None:
    values = np.random.default_rng(0).uniform(100, 3000, (3, 300, 300)).astype(dtype)
    nodata = {"float32": np.nan, "int16": -9999, "uint16": 0}[dtype]
    values[:, ::25] = nodata
    manifest, said = calibrated(write_raster(tmp_path / "a.tif", values, nodata=nodata))
    tiles = manifest["calibration"]["tiles"]
    assert len(tiles) == 16
    assert all(0 < tile["gap_share"] < 0.5 and 0.2 < tile["brightness"] < 0.9 for tile in tiles)
    assert not any("warning" in line for line in said)


def test_the_built_in_scene_is_warned_of(calibrated: Callable[..., Any]) -> None:
    _, said = calibrated()
    assert any("these are synthetic" in line and "--calibrate" in line for line in said)


def test_two_scenes_of_one_name_are_both_calibrated_on(
    calibrated: Callable[..., Any], tmp_path: Path, write_raster: Callable[..., Path]
) -> None:
    scenes = []
    for number in range(2):
        values = np.random.default_rng(number).integers(1, 255, (3, 300, 300), dtype=np.uint8)
        values[:, ::25] = 0
        scenes.append(write_raster(tmp_path / str(number) / "scene.tif", values, nodata=0))
    manifest, _ = calibrated(*scenes)
    tiles = manifest["calibration"]["tiles"]
    assert len({tile["sha256"] for tile in tiles}) == len(tiles) == 16
