"""``ecea-run`` does its work: what it writes, what it prints, which bundle and which backend it takes."""

import base64
import dataclasses
import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from ecea.runtime import Result
from ecea.runtime.cli import closing_line

Run = Callable[..., Any]
Values = NDArray[np.uint8]

GAP_VALUE = 64  # what the tiny bundle makes of a gap in 8 bits: round(255 * 0.25)


def pixels(path: Path) -> NDArray[Any]:
    with rasterio.open(path) as source:
        return np.asarray(source.read())


def filled(values: Values, gap_value: int = GAP_VALUE) -> Values:
    """What becomes of ``values`` whose zeros are filled."""
    return np.where(values == 0, np.uint8(gap_value), values)


def test_a_scene_is_filled(run: Run, bundle: Path, scene: Path, values: Values, tmp_path: Path) -> None:
    done = run("ecea-run", scene, "--bundle", bundle, "-o", "out.tif", "--backend", "cpu")
    assert (done.status, done.stderr) == (0, "")
    np.testing.assert_array_equal(pixels(tmp_path / "out.tif"), filled(values))
    np.testing.assert_array_equal(pixels(scene), values)


@pytest.mark.parametrize(
    "threads", [("--threads", 1), ("--threads", 3, "--streams", 3), ("--threads", 2, "--batch", 3)]
)
def test_neither_threads_nor_streams_change_what_is_filled(
    threads: tuple[object, ...], run_here: Run, bundle: Path, scene: Path, values: Values, tmp_path: Path
) -> None:
    """One thread has one stream, unless told otherwise."""
    done = run_here("ecea-run", scene, "--bundle", bundle, "-o", "out.tif", "--backend", "cpu", *threads)
    assert (done.status, done.stderr) == (0, "")
    np.testing.assert_array_equal(pixels(tmp_path / "out.tif"), filled(values))


def test_the_closing_line(run_here: Run, bundle: Path, scene: Path) -> None:
    done = run_here("ecea-run", scene, "--bundle", bundle, "-o", "out.tif", "--backend", "cpu")
    stages = ("survey", "reading", "edges", "inference", "blending", "writing", "total")
    seconds = ", ".join(rf"{stage} \d+\.\d s" for stage in stages)
    line = (
        r"out\.tif: 30 px filled \(1\.1 %\); tiles 2 run, 4 skipped; "
        rf"{seconds}; stretch 0,255,1; fp32 of {re.escape(str(bundle))} on cpu\n"
    )
    assert re.fullmatch(line, done.stdout), done.stdout


def test_the_closing_line_names_arithmetic_other_than_float32(run_here: Run, bundle: Path, scene: Path) -> None:
    printed = json.loads(run_here("ecea-run", scene, "--bundle", bundle, "--backend", "cpu", "--json").stdout)
    (result,) = (Result(**result) for result in printed["results"])
    assert closing_line(result).endswith(" on cpu")
    assert closing_line(dataclasses.replace(result, arithmetic="bf16")).endswith(" on cpu in bf16")


def test_blind_tiles_and_collar_are_counted(run_here: Run, bundle: Path, write_scene: Run) -> None:
    values = np.full((3, 160, 160), 9, np.uint8)
    values[:, 40:158, 40:158] = 0  # a lake, wider than a tile
    values[:, :36, :36] = 0  # a corner outside the swath
    scene = write_scene("lake.tif", values, nodata=0)
    arguments = ("ecea-run", scene, "--bundle", bundle, "-o", "out.tif", "--backend", "cpu")
    line = run_here(*arguments).stdout
    result = json.loads(run_here(*arguments, "--json").stdout)["results"][0]
    assert result["tiles_blind"] > 0
    assert result["pixels_collar"] == 36 * 36
    assert result["pixels_filled"] + result["pixels_left"] == 118 * 118
    assert f"{result['pixels_left']:,} px left in {result['tiles_blind']} tiles without a valid pixel; " in line
    skipped = result["tiles_skipped"] + result["tiles_blind"]
    assert f"; 1,296 px of collar left; tiles {result['tiles_run']} run, {skipped} skipped; " in line


def test_a_stretch_that_most_values_lie_outside_is_questioned(run_here: Run, bundle: Path, write_scene: Run) -> None:
    values = np.full((3, 40, 70), 100, np.uint8)
    values[:, :24], values[:, 30:32] = 240, 0
    arguments = ("ecea-run", write_scene("s.tif", values, nodata=0), "--bundle", bundle, "--backend", "cpu")
    line = run_here(*arguments, "--stretch", "0,200").stdout
    assert "; stretch 0,200,1, 63% of the scene's values lie outside: is it meant for this scene?; " in line
    assert "; stretch 110,250,1; " in run_here(*arguments, "--stretch", "110,250").stdout


def test_json_holds_what_the_result_documents(run_here: Run, bundle: Path, scene: Path) -> None:
    done = run_here("ecea-run", "scene.tif", "--bundle", "tiny.ecea", "-o", "out.tif", "--backend", "cpu", "--json")
    assert (done.status, done.stderr) == (0, "")
    printed = json.loads(done.stdout)
    assert set(printed) == {"results", "errors"}
    assert printed["errors"] == []
    (result,) = printed["results"]
    assert set(result) == {field.name for field in dataclasses.fields(Result)}
    assert all(field in (Result.__doc__ or "") for field in result)
    expected = {
        "source": "scene.tif", "destination": "out.tif", "width": 70, "height": 40, "bands": [1, 2, 3],
        "tiles_run": 2, "tiles_skipped": 4, "tiles_blind": 0, "pixels_filled": 30,
        "pixels_redrawn": 0, "pixels_left": 0, "pixels_collar": 0, "stretch": [0, 255, 1], "engine": "fp32",
        "backend": "cpu", "passed_over": {},
        "bundle": "tiny.ecea",
    }  # fmt: skip
    assert {name: result[name] for name in expected} == expected
    assert set(result["seconds"]) == {"survey", "reading", "edges", "inference", "blending", "writing", "total"}
    assert all(seconds >= 0 for seconds in result["seconds"].values())


def test_the_output_is_named_after_the_scene(run_here: Run, bundle: Path, scene: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for arguments in ((), ("-o", "folder"), ("--output", "folder/")):
        assert run_here("ecea-run", scene, "--bundle", bundle, "--backend", "cpu", *arguments).status == 0
    assert {path.name for path in tmp_path.iterdir()} == {"scene.tif", "tiny.ecea", "folder", "scene_filled.tif"}
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["scene_filled.tif"]


def test_several_scenes_and_one_that_is_none(
    run_here: Run, bundle: Path, scene: Path, values: Values, tmp_path: Path
) -> None:
    (tmp_path / "bad.tif").write_text("not a raster")
    shutil.copy(scene, tmp_path / "last.tif")
    out = tmp_path / "out"
    out.mkdir()
    arguments = ("ecea-run", "scene.tif", "bad.tif", "last.tif", "--bundle", bundle, "-o", out, "--backend", "cpu")
    done = run_here(*arguments)
    assert done.status == 2
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        f"{out}/scene_filled.tif",
        f"{out}/last_filled.tif",
    ]
    assert re.fullmatch(r"ecea-run: bad\.tif: is not a raster .*\n", done.stderr)
    assert sorted(path.name for path in out.iterdir()) == ["last_filled.tif", "scene_filled.tif"]
    for name in ("scene", "last"):
        np.testing.assert_array_equal(pixels(out / f"{name}_filled.tif"), filled(values))
    done = run_here(*arguments, "--json")
    printed = json.loads(done.stdout)
    assert done.status == 2
    assert [result["source"] for result in printed["results"]] == ["scene.tif", "last.tif"]
    assert [error["source"] for error in printed["errors"]] == ["bad.tif"]
    assert done.stderr == f"ecea-run: {printed['errors'][0]['message']}\n"


def test_a_scene_without_a_gap_is_copied(
    run_here: Run, bundle: Path, write_scene: Run, values: Values, tmp_path: Path
) -> None:
    whole = filled(values, 7)
    scene = write_scene("whole.tif", whole, nodata=0)
    done = run_here("ecea-run", scene, "--bundle", bundle, "-o", "out.tif", "--backend", "cpu")
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout.startswith("out.tif: no gap to fill: copied; tiles 0 run, 6 skipped; ")
    np.testing.assert_array_equal(pixels(tmp_path / "out.tif"), whole)


@pytest.mark.parametrize(
    ("options", "gap_value"),
    [
        (("--stretch", "0,100,1"), 25),
        (("--stretch", "0,100"), 25),
        (("--stretch", "0,100,0.5"), 6),  # 100 * 0.25 ** (1 / 0.5)
        (("--bands", "3,2,1"), GAP_VALUE),
        (("--mask", "zero"), GAP_VALUE),
        (("--mask", "nodata"), GAP_VALUE),
        (("--batch", "3"), GAP_VALUE),
        (("--overlap", "0"), GAP_VALUE),
        (("--overlap", "16", "--blend", "mean"), GAP_VALUE),
        (("--threads", "1"), GAP_VALUE),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_options(
    options: tuple[str, ...], gap_value: int, run_here: Run, bundle: Path, scene: Path, values: Values, tmp_path: Path
) -> None:
    done = run_here("ecea-run", scene, "--bundle", bundle, "-o", "out.tif", "--backend", "cpu", *options)
    assert (done.status, done.stderr) == (0, "")
    np.testing.assert_array_equal(pixels(tmp_path / "out.tif"), filled(values, gap_value))


def test_a_mask_file(run_here: Run, bundle: Path, write_scene: Run, values: Values, tmp_path: Path) -> None:
    whole = filled(values, 200)
    write_scene("mask.tif", (values[:1] == 0).astype(np.uint8))
    scene = write_scene("whole.tif", whole)
    done = run_here("ecea-run", scene, "--bundle", bundle, "-o", "out.tif", "--backend", "cpu", "--mask", "mask.tif")
    assert (done.status, done.stderr) == (0, "")
    np.testing.assert_array_equal(pixels(tmp_path / "out.tif"), filled(values))


def test_reference_mode_writes_the_generated_image(
    run_here: Run, bundle: Path, scene: Path, values: Values, tmp_path: Path
) -> None:
    done = run_here("ecea-run", scene, "--bundle", bundle, "-o", "out.tif", "--backend", "cpu", "--reference")
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout.startswith("out.tif: 30 px filled (1.1 %); 2,770 valid px drawn anew; tiles ")
    generated = np.where(values == 0, 255 / 4, values / 2)
    assert np.abs(pixels(tmp_path / "out.tif") - np.floor(generated)).max() <= 1


def test_a_scene_inside_an_archive(run_here: Run, bundle: Path, scene: Path, values: Values, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "scenes.zip", "w") as archive:
        archive.write(scene, "inside.tif")
    done = run_here("ecea-run", "/vsizip/scenes.zip/inside.tif", "--bundle", bundle, "--backend", "cpu")
    assert (done.status, done.stderr) == (0, "")
    np.testing.assert_array_equal(pixels(tmp_path / "inside_filled.tif"), filled(values))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_libraries_do_not_warn_users(run: Run, bundle: Path, write_scene: Run, values: Values, tmp_path: Path) -> None:
    """rasterio warns of scenes without a georeference, and of nodata beside an alpha band."""
    write_scene("plain.tif", np.concatenate([values, values[:1]]), nodata=0, crs=None, transform=None)
    done = run("ecea-run", "plain.tif", "--bundle", bundle, "--backend", "cpu", "--report", "page.html")
    assert (done.status, done.stderr) == (0, "")


@pytest.mark.parametrize("how", ["the only one here", "ECEA_BUNDLE"])
def test_the_bundle_is_found(how: str, run: Run, bundle: Path, scene: Path, tmp_path: Path) -> None:
    environment = {}
    if how == "ECEA_BUNDLE":
        shutil.copytree(bundle, tmp_path / "second.ecea")
        environment = {"ECEA_BUNDLE": "second.ecea"}
    done = run("ecea-run", scene, "--backend", "cpu", "--json", env=environment)
    assert done.status == 0, done
    assert json.loads(done.stdout)["results"][0]["bundle"] == environment.get("ECEA_BUNDLE", "tiny.ecea")


def test_auto_takes_the_first_backend_that_loads(
    run: Run, without: Run, bundle: Path, scene: Path, values: Values, tmp_path: Path
) -> None:
    arguments = ("ecea-run", scene, "--bundle", "tiny.ecea", "-o", "out.tif")
    environment = without("openvino")
    result = json.loads(run(*arguments, "--json", env=environment).stdout)["results"][0]
    assert result["backend"] == "cpu"
    assert list(result["passed_over"]) == ["tensorrt", "cuda", "openvino"]
    assert "no libopenvino.so on this machine" in result["passed_over"]["openvino"]
    np.testing.assert_array_equal(pixels(tmp_path / "out.tif"), filled(values))
    line = run(*arguments, env=environment).stdout
    assert line.endswith(f", openvino passed over: {result['passed_over']['openvino']}\n")
    assert line.count("; fp32 of tiny.ecea on cpu, tensorrt and cuda passed over: ") == 1


def test_auto_prefers_openvino(run_here: Run, bundle: Path, scene: Path, values: Values, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    result = json.loads(run_here("ecea-run", scene, "-o", "out.tif", "--json").stdout)["results"][0]
    assert (result["backend"], list(result["passed_over"])) == ("openvino", ["tensorrt", "cuda"])
    np.testing.assert_array_equal(pixels(tmp_path / "out.tif"), filled(values))


def test_a_report_needs_nothing_but_itself(run_here: Run, bundle: Path, scene: Path, tmp_path: Path) -> None:
    done = run_here("ecea-run", scene, "--bundle", bundle, "-o", "out.tif", "--backend", "cpu", "--report", "page.html")
    assert (done.status, done.stderr) == (0, "")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    links = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s>)]*)""", page)
    assert links
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert not re.search(r"<script|<link|@import|https?://", page)
    facts = dict(re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td></tr>", page))
    expected = {
        "destination": "out.tif", "width": "70", "height": "40", "tiles run": "2", "tiles skipped": "4",
        "pixels filled": "30", "pixels left": "0", "bands": "1,2,3", "stretch": "0,255,1", "backend": "cpu",
        "passed over": "none",
    }  # fmt: skip
    assert {name: facts.get(name) for name in expected} == expected
    assert "<h2>out.tif</h2>" in page


def test_a_report_escapes_names_and_messages(run_here: Run, bundle: Path, scene: Path, tmp_path: Path) -> None:
    scene.rename(tmp_path / "<b>&.tif")
    done = run_here("ecea-run", "<b>&.tif", "--bundle", bundle, "--backend", "cpu", "--report", "page.html")
    assert done.status == 0, done
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<b>" not in page
    assert "<h2>&lt;b&gt;&amp;_filled.tif</h2>" in page
    done = run_here("ecea-run", "<i>.tif", "--bundle", bundle, "--backend", "cpu", "--report", "page.html")
    assert done.status == 2, done
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<i>" not in page
    assert "&lt;i&gt;.tif: no such file" in page


def test_a_report_shows_the_bands_that_were_filled(run_here: Run, bundle: Path, scene: Path, tmp_path: Path) -> None:
    done = run_here(
        "ecea-run", scene, "--bundle", bundle, "--bands", "2,2,2", "--backend", "cpu", "--report", "page.html"
    )
    assert done.status == 0, done
    (data,) = re.findall(r'src="data:image/png;base64,([^"]*)"', (tmp_path / "page.html").read_text(encoding="utf-8"))
    (tmp_path / "page.png").write_bytes(base64.b64decode(data))
    shown = pixels(tmp_path / "page.png")[:, 38:]  # below the labels and the gap: one band is grey
    assert (shown == shown[0]).all()


def test_debug_shows_the_traceback(run_here: Run, bundle: Path) -> None:
    done = run_here("ecea-run", "absent.tif", "--bundle", bundle, "--backend", "cpu", "--debug")
    assert done.status == 2
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("ecea-run: absent.tif: no such file")


def test_progress_goes_to_a_terminal(bundle: Path, scene: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", "from ecea.runtime.cli import main; main()", str(scene), "--backend", "cpu", "--json"],
        cwd=tmp_path,
        env={**os.environ, "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        assert process.stdout is not None
        seen, printed = _read_all(ours), process.stdout.read()
    os.close(ours)
    assert process.returncode == 0
    assert json.loads(printed)["results"][0]["pixels_filled"] == 30
    assert "fp32 on cpu in f32, bundle tiny.ecea (the only bundle in the current directory)" in seen
    assert re.search(r"scene\.tif .*100%.*\d+ tiles +[\d.]+/s", seen)


def _read_all(terminal: int) -> str:
    parts = []
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # how Linux says that the other side is closed
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts).decode()


def test_a_refused_request_is_json_too(run_here: Run, scene: Path) -> None:
    done = run_here("ecea-run", "scene.tif", "--bundle", "absent.ecea", "--json")
    assert done.status == 2
    printed = json.loads(done.stdout)
    assert printed["results"] == []
    (error,) = printed["errors"]
    assert done.stderr == f"ecea-run: {error['message']}\n"


def test_an_error_that_nobody_foresaw_stops_its_scene_alone(
    run: Run, bundle: Path, scene: Path, values: Values, tmp_path: Path, without: Callable[..., dict[str, str]]
) -> None:
    environment = without()
    (tmp_path / "broken" / "sitecustomize.py").write_text(
        "import ecea.runtime.cli as cli\n"
        "known = cli.inpaint\n"
        "def inpaint(source, *rest, **options):\n"
        "    if source == 'bad.tif':\n"
        "        raise ZeroDivisionError('by zero')\n"
        "    return known(source, *rest, **options)\n"
        "cli.inpaint = inpaint\n"
    )
    done = run("ecea-run", "bad.tif", "scene.tif", "--bundle", bundle, "--backend", "cpu", "--json", env=environment)
    printed = json.loads(done.stdout)
    assert (done.status, [error["source"] for error in printed["errors"]]) == (1, ["bad.tif"])
    assert "ecea-run: failed on something it does not know (ZeroDivisionError: by zero)" in done.stderr
    np.testing.assert_array_equal(pixels(tmp_path / "scene_filled.tif"), filled(values))


def test_scenes_are_filled_though_nothing_can_be_said_of_them(bundle: Path, scene: Path, tmp_path: Path) -> None:
    shutil.copy(scene, tmp_path / "other.tif")
    command = [sys.executable, "-c", "from ecea.runtime.cli import main; main()", "scene.tif", "other.tif"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*command, "--backend", "cpu"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "ecea-run: standard output cannot be written (No space left on device)\n"
    assert (tmp_path / "other_filled.tif").exists()


def test_a_name_that_the_terminal_cannot_show_is_printed_as_it_can(
    run: Run, bundle: Path, scene: Path, tmp_path: Path
) -> None:
    done = run(
        "ecea-run",
        scene,
        "-o",
        "\u00e9.tif",
        "--backend",
        "cpu",
        env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C.UTF-8"},
    )
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout.startswith("\\xe9.tif: 30 px filled")
    assert (tmp_path / "\u00e9.tif").exists()


def test_a_name_that_is_not_utf_8_is_told_and_reported(run: Run, bundle: Path, tmp_path: Path) -> None:
    done = run("ecea-run", "caf\udce9.tif", "--backend", "cpu", "--report", "page.html")
    assert (done.status, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("ecea-run: caf\\xe9.tif: is a name that is not UTF-8")
    assert "caf\\xe9.tif: is a name" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_result_for_a_program_that_is_not_there(bundle: Path, scene: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from ecea.runtime.cli import main; main()", "scene.tif", "--json"]
    command += ["--report", "page.html"]
    closed = f"exec {shlex.join([*command, '--backend', 'cpu'])} >&-"
    done = subprocess.run(["sh", "-c", closed], cwd=tmp_path, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("ecea-run: standard output is closed")
    assert (tmp_path / "page.html").exists()
