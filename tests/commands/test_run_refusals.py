"""What ``ecea-run`` refuses (exit status 2) and fails at (1): one sentence on stderr, nothing written."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer

from ecea.runtime.command import sentences

Run = Callable[..., Any]
Desk = Any  # what the fixture of that name gives


OUT = ("-o", "out/filled.tif")


# Scenes


def test_no_such_file(desk: Desk) -> None:
    assert desk.refusal("absent.tif", *OUT) == "absent.tif: no such file: give the path of a raster"


@pytest.mark.parametrize("content", [b"", b"plain text", b"II*\0\x08\0\0\0"], ids=["empty", "text", "a torn TIFF"])
def test_not_a_raster(content: bytes, desk: Desk) -> None:
    (desk.folder / "notes.tif").write_bytes(content)
    assert desk.refusal("notes.tif", *OUT).startswith("notes.tif: is not a raster")


def test_a_folder(desk: Desk) -> None:
    assert desk.refusal("out", *OUT).startswith("out: is not a raster")


def test_fewer_bands_than_asked(desk: Desk) -> None:
    desk.write_scene("one.tif", desk.values[:1], nodata=0)
    sentence = desk.refusal("one.tif", *OUT)
    assert sentence.startswith("one.tif: has 1 band, bands 1,2,3 were asked for")
    assert "--bands" in sentence
    assert "scene.tif: has 3 bands, bands 4,3,2 were asked for" in desk.refusal("scene.tif", *OUT, "--bands", "4,3,2")


def test_complex_values(desk: Desk) -> None:
    desk.write_scene("radar.tif", desk.values.astype(np.complex64))
    sentence = desk.refusal("radar.tif", *OUT)
    assert sentence.startswith("radar.tif: has values of type complex64: expected")


def test_all_gap(desk: Desk) -> None:
    desk.write_scene("night.tif", np.zeros_like(desk.values), nodata=0)
    assert desk.refusal("night.tif", *OUT).startswith("night.tif: has no valid pixel at all")


def test_gaps_that_nothing_declares(desk: Desk) -> None:
    desk.write_scene("plain.tif", desk.values)
    sentence = desk.refusal("plain.tif", *OUT)
    assert sentence.startswith("plain.tif: declares no nodata value")
    assert "--mask" in sentence


# Masks


def test_a_mask_of_another_size(desk: Desk) -> None:
    desk.write_scene("mask.tif", desk.values[:1, :, :-1])
    sentence = desk.refusal("scene.tif", *OUT, "--mask", "mask.tif")
    assert sentence.startswith("mask.tif: is a mask of 69 x 40 px, the scene has 70 x 40")


@pytest.mark.parametrize("mask", ["absent.tif", "tiny.ecea/manifest.json"])
def test_no_mask(mask: str, desk: Desk) -> None:
    assert desk.refusal("scene.tif", *OUT, "--mask", mask).startswith(f"{mask}: is not a mask that can be read")


def test_no_quality_bands(desk: Desk) -> None:
    sentence = desk.refusal("scene.tif", *OUT, "--mask", "qa")
    assert "_QA_PIXEL.TIF" in sentence


# Bundles, engines, backends


def test_a_changed_byte(desk: Desk) -> None:
    path = desk.folder / "tiny.ecea" / "generator.fp32.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    sentence = desk.refusal("scene.tif", *OUT)
    assert sentence.startswith("tiny.ecea/generator.fp32.onnx: has sha256 ")
    assert "has changed" in sentence


def test_a_missing_file(desk: Desk) -> None:
    (desk.folder / "tiny.ecea" / "generator.fp32.onnx").unlink()
    sentence = desk.refusal("scene.tif", *OUT)
    assert sentence.startswith("tiny.ecea/generator.fp32.onnx: cannot be read (No such file or directory)")


def edit_manifest(folder: Path, **changes: Any) -> None:
    path = folder / "tiny.ecea" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_newer_schema(desk: Desk) -> None:
    edit_manifest(desk.folder, schema=2)
    sentence = desk.refusal("scene.tif", *OUT)
    assert sentence.startswith("tiny.ecea/manifest.json: has schema 2, this version of ecea reads schemas up to 1")


def replace_model(folder: Path, data: bytes) -> None:
    """Give the bundle another model, with the hash to go with it."""
    path = folder / "tiny.ecea" / "generator.fp32.onnx"
    path.write_bytes(data)
    file = {"name": path.name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    edit_manifest(folder, engines=[{"engine": "fp32", "backends": ["openvino", "cpu"], "files": [file]}])


@pytest.mark.parametrize("manifest", ["", "{", "[]", '{"schema": 1}'])
def test_a_damaged_manifest(manifest: str, desk: Desk) -> None:
    (desk.folder / "tiny.ecea" / "manifest.json").write_text(manifest)
    assert desk.refusal("scene.tif", *OUT).startswith("tiny.ecea/manifest.json: ")


@pytest.mark.parametrize("bundle", ["absent.ecea", "out", "scene.tif"])
def test_no_bundle(bundle: str, desk: Desk) -> None:
    sentence = desk.refusal("scene.tif", *OUT, "--bundle", bundle)
    assert sentence.startswith(f"{bundle}: is not a bundle")


def test_no_bundle_found(desk: Desk) -> None:
    shutil.rmtree(desk.folder / "tiny.ecea")
    sentence = desk.refusal("scene.tif", *OUT)
    assert sentence.startswith(f"{desk.folder}: found no bundle in the current directory")
    assert "ecea-export" in sentence


def test_two_bundles_found(desk: Desk) -> None:
    shutil.copytree(desk.folder / "tiny.ecea", desk.folder / "another.ecea")
    sentence = desk.refusal("scene.tif", *OUT)
    assert "found 2 bundles (another.ecea, tiny.ecea) in the current directory" in sentence
    assert "--bundle" in sentence


@pytest.mark.parametrize(("engine", "said"), [("fp16", "tiny.ecea: holds no fp16 engine, only fp32"), ("fp8", "fp8")])
def test_an_engine_that_is_not_there(engine: str, said: str, desk: Desk) -> None:
    assert said in desk.refusal("scene.tif", *OUT, "--engine", engine)


def test_an_engine_that_is_not_there_can_be_made(desk: Desk) -> None:
    sentence = desk.refusal("scene.tif", *OUT, "--engine", "int8")
    assert sentence.startswith("tiny.ecea: holds no int8 engine, only fp32")
    assert "'ecea-export CHECKPOINT --engine int8'" in sentence


@pytest.mark.parametrize("backend", ["openvino", "cpu"])
def test_a_backend_that_does_not_load(backend: str, desk: Desk, without: Run) -> None:
    module = {"openvino": "openvino", "cpu": "onnxruntime"}[backend]
    sentence = desk.refusal("scene.tif", *OUT, backend=backend, env=without(module))
    assert sentence.startswith(f"tiny.ecea: the backend '{backend}' that was named cannot run fp32 here (")
    assert f"no lib{module}.so on this machine" in sentence
    assert "--backend" in sentence


@pytest.mark.parametrize("backend", ["tensorrt", "cuda"])
def test_a_gpu_s_backend_where_none_runs_it(backend: str, desk: Desk) -> None:
    sentence = desk.refusal("scene.tif", *OUT, backend=backend)
    assert sentence.startswith(f"tiny.ecea: the backend '{backend}' that was named cannot run fp32 here (")
    assert sentence.endswith("): name another with --backend, or auto")


def test_no_backend_at_all(desk: Desk, without: Run) -> None:
    sentence = desk.refusal("scene.tif", *OUT, backend="auto", env=without("openvino", "onnxruntime"))
    assert "no libopenvino.so on this machine" in sentence
    assert "no libonnxruntime.so on this machine" in sentence


def test_an_unknown_backend(desk: Desk) -> None:
    assert desk.refusal("scene.tif", *OUT, backend="tpu").startswith(
        "backend 'tpu' is unknown: expected auto or one of"
    )


# Work that fails


@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_a_model_that_no_backend_takes(backend: str, desk: Desk) -> None:
    model = onnx.load(desk.folder / "tiny.ecea" / "generator.fp32.onnx")
    model.graph.node[0].op_type, model.graph.node[0].domain = "Unheard", "nowhere"
    replace_model(desk.folder, model.SerializeToString())
    sentence = desk.refusal("scene.tif", *OUT, backend=backend, status=1)
    assert sentence.startswith("tiny.ecea/generator.fp32.onnx: ")
    assert "cannot load it" in sentence


@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_a_model_that_fails_on_a_batch(backend: str, desk: Desk) -> None:
    model = onnx.load(desk.folder / "tiny.ecea" / "generator.fp32.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    replace_model(desk.folder, model.SerializeToString())
    sentence = desk.refusal("scene.tif", *OUT, backend=backend, status=1)
    assert sentence.startswith(f"tiny.ecea: {backend} failed on a batch of 1: ")


def test_a_scene_that_ends_early(desk: Desk) -> None:
    noise = np.random.default_rng(1).integers(1, 255, (3, 600, 600), dtype=np.uint8)
    path = desk.write_scene("torn.tif", noise, nodata=0, compress="deflate")
    path.write_bytes(path.read_bytes()[:200_000])
    sentence = desk.refusal("torn.tif", *OUT, status=1)
    assert sentence.startswith("torn.tif: rows ")
    several = desk.run_here("ecea-run", "absent.tif", "torn.tif", "-o", "out", "--backend", "cpu")
    assert several.status == 2, "the highest of all scenes, not the last one's"


# Options


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--stretch", "0", "stretch '0' is not three numbers: expected MIN,MAX,GAMMA"),
        ("--stretch", "0,high,1", "stretch '0,high,1' is not three numbers"),
        ("--stretch", "0,1,1,1", "stretch '0,1,1,1' is not three numbers"),
        ("--stretch", "5,5,1", "stretch 5,5,1 is impossible"),
        ("--stretch", "0,1,0", "stretch 0,1,0 is impossible"),
        ("--stretch", "0,nan,1", "stretch 0,nan,1 is impossible"),
        ("--bands", "red,green,blue", "bands 'red,green,blue' is not a list of integers"),
        ("--bands", "1,2", "bands 1,2 are not three"),
        ("--bands", "0,1,2", "bands 0,1,2 are not three"),
        ("--bands", "", "an argument is empty (--bands=), expected a value: see ecea-run -h"),
        ("--overlap", "-1", "an overlap of -1 px is out of range: expected 0 to 16 px"),
        ("--overlap", "17", "an overlap of 17 px is out of range: expected 0 to 16 px"),
        ("--overlap", "half", "--overlap"),
        ("--blend", "cubic", "blend 'cubic' is unknown: expected one of linear, mean"),
        ("--batch", "0", "a batch of 0 tiles is impossible"),
        ("--batch", "1025", "a batch of 1025 tiles is impossible: expected 1 to 1024"),
        ("--batch", "many", "--batch"),
        ("--threads", "0", "--threads"),
        ("--streams", "0", "--streams"),
        ("--streams", "1024", "1024 streams cannot share"),
    ],
)
def test_a_bad_option(option: str, value: str, said: str, desk: Desk) -> None:
    assert said in desk.refusal("scene.tif", *OUT, f"{option}={value}")


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (("scene.tif", "-o", ""), "after -o"),
        (("scene.tif", "--output="), "--output="),
        (("scene.tif", "--report", ""), "after --report"),
        (("scene.tif", "--bundle", ""), "after --bundle"),
        (("scene.tif", ""), "after scene.tif"),
        (("", "scene.tif"), "the first"),
    ],
)
def test_an_empty_argument_is_not_the_default(
    arguments: tuple[str, ...], where: str, bundle: Path, scene: Path, tmp_path: Path, run_here: Run, contents: Run
) -> None:
    before = contents(tmp_path)
    sentence = run_here("ecea-run", *arguments).sentence()
    assert sentence == f"an argument is empty ({where}), expected a value: see ecea-run -h"
    assert contents(tmp_path) == before


@pytest.mark.parametrize(("option", "value"), [("--streams", "0"), ("--threads", "-7"), ("--batch", "many")])
def test_a_value_that_cannot_be_read_is_repeated(option: str, value: str, desk: Desk) -> None:
    """Some versions of typer leave it out."""
    sentence = desk.refusal("scene.tif", *OUT, f"{option}={value}")
    assert re.fullmatch(rf"Invalid value for '{option}': .*(?<![\w-]){value}(?!\w).*: see ecea-run -h", sentence)


def test_reference_mode_is_for_8_bits(desk: Desk) -> None:
    desk.write_scene("wide.tif", desk.values.astype(np.uint16), nodata=0)
    assert desk.refusal("wide.tif", *OUT, "--reference").startswith("wide.tif: has values of type uint16")


def test_a_value_that_ends_in_an_equals_sign_is_one(desk: Desk) -> None:
    """As signatures of addresses do."""
    assert desk.refusal("scene.tif", *OUT, "--mask=absent.tif?sig=").startswith("absent.tif?sig=: ")


def test_a_current_folder_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Libraries fail on it in many ways."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(typer.Exit) as ended, sentences("ecea-run", debug=False):
        pytest.fail("the work has begun")
    assert ended.value.exit_code == 2
    assert capfd.readouterr().err == (
        "ecea-run: the current folder cannot be found (No such file or directory): change to one that is there\n"
    )
