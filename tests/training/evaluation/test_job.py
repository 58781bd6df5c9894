"""What ``ecea-evaluate`` refuses, each in one sentence, with nothing written; and what it takes from its options."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio.shutil
from numpy.typing import NDArray

from ecea.runtime.errors import EceaError, RequestError
from ecea.training.evaluation.job import Job, run

Make = Callable[..., Any]


@pytest.fixture
def job(tmp_path: Path, noise: NDArray[np.uint8], write_raster: Make) -> Job:
    """``nearest`` on one scene with stripes of 4 px, written to ``out.json``."""
    (tmp_path / "scenes").mkdir()
    return Job(
        scenes=[write_raster(tmp_path / "scenes" / "a.tif", noise)],
        bundles=[],
        checkpoints=[],
        baselines=["nearest"],
        masks=[],
        stripes=(4,),
        seed=0,
        folds=None,
        fold=None,
        group="number",
        bands=(1, 2, 3),
        stretch=None,
        engine="fp32",
        backend="auto",
        num_heads=None,
        threads=1,
        published=False,
        outputs=[tmp_path / "out.json"],
        sheet=tmp_path / "sheet.png",
    )


def refusal(job: Job, **changes: Any) -> str:
    """The sentence that the changed job ends with; nothing may have been written."""
    with pytest.raises(RequestError) as refused:
        run(replace(job, **changes), as_json=False)
    assert not [path for path in job.outputs if path.exists()]
    assert job.sheet is not None
    assert not job.sheet.exists()
    return str(refused.value)


def evaluated(job: Job, **changes: Any) -> Any:
    """The JSON of the changed job."""
    run(replace(job, **changes), as_json=False)
    return json.loads(job.outputs[0].read_text())


def test_results_and_sheet(job: Job) -> None:
    content = evaluated(job)
    assert content["settings"] == {
        "bands": [1, 2, 3], "stretch": None, "seed": 0, "folds": None, "fold": None, "group": "number",
    }  # fmt: skip
    assert [result["method"] for result in content["results"]] == ["nearest"]
    assert job.sheet is not None
    assert job.sheet.read_bytes().startswith(b"\x89PNG")


def test_bundles_are_opened_as_asked(job: Job, engine_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def open_engine(path: Path, **options: Any) -> Any:
        asked.append((path, options))
        return engine_of(lambda image, edge, mask: image)

    monkeypatch.setattr("ecea.training.evaluation.job.open_engine", open_engine)
    evaluated(job, bundles=[Path("a.ecea")], engine="int8", backend="cpu", threads=3)
    assert asked == [(Path("a.ecea"), {"engine": "int8", "backend": "cpu", "threads": 3})]


def test_results_without_the_sheet_that_belongs_to_them_are_not_left(job: Job, files_of_at_most: Make) -> None:
    """The results are small enough, the sheet is not; as where the disk is nearly full."""
    with (
        files_of_at_most(20_000),
        pytest.raises(EceaError, match=r"sheet\.png: cannot be written \(File too large\)"),
    ):
        run(job, as_json=False)
    assert [path.name for path in job.outputs[0].parent.iterdir()] == ["scenes"]


def test_names_are_printed_as_they_are(
    job: Job, noise: NDArray[np.uint8], write_raster: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A part in brackets was taken for a style, and left out."""
    mask = write_raster(tmp_path / "m[old] :sun:.tif", (noise[:1] > 100).astype(np.uint8))
    run(replace(job, masks=[mask], stripes=()), as_json=False)
    assert "m[old] :sun:" in capsys.readouterr().out


def test_all_baselines(job: Job) -> None:
    content = evaluated(job, baselines=["nearest", "all"])
    names = ["telea", "navier-stokes", "fillnodata", "nearest", "laplace"]
    assert [method["name"] for method in content["methods"]] == names


def test_a_folder_of_scenes_with_masks_of_their_own(job: Job, noise: NDArray[np.uint8], write_raster: Make) -> None:
    folder = job.scenes[0].parent
    write_raster(folder / "b.tif", noise)
    mask = np.zeros((1, 40, 50), np.uint8)
    mask[0, 10:13] = 1
    for name in ("a", "b"):
        write_raster(folder / f"{name}_mask.tif", mask)
    content = evaluated(job, scenes=[folder], stripes=())
    assert [Path(case["scene"]).name for case in content["cases"]] == ["a.tif", "b.tif"]
    assert {case["gaps"] for case in content["cases"]} == {"own masks"}
    assert content["results"][0]["outcome"]["gap"]["pixels"] == 2 * 3 * 50
    write_raster(folder / "b_mask.tif", mask[:, :30])
    job.outputs[0].unlink()
    job.sheet.unlink()  # type: ignore[union-attr]
    assert "b_mask.tif: is a mask of 50 x 30 px, the scene has 50 x 40" in refusal(job, scenes=[folder], stripes=())


def test_the_scenes_of_a_fold(job: Job, noise: NDArray[np.uint8], write_raster: Make) -> None:
    """Patches of one scene stay together."""
    folder = job.scenes[0].parent
    for name in ("b_1", "b_2", "c", "d_1"):
        write_raster(folder / f"{name}.tif", noise)
    found = []
    for fold in (1, 2, 3):
        content = evaluated(job, scenes=[folder], folds=3, fold=fold)
        found.append([Path(case["scene"]).stem for case in content["cases"]])
    assert found == [["a", "d_1"], ["b_1", "b_2"], ["c"]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"baselines": ["biharmonic"]}, "baseline 'biharmonic' is unknown: expected all or one of telea"),
        ({"stripes": (2, 40)}, "stripes of 40 px are impossible"),
        ({"folds": 5}, "--folds and --fold go together"),
        ({"fold": 1}, "--folds and --fold go together"),
        ({"folds": 2, "fold": 1}, "1 scene (a) cannot be split into 2 folds"),
        ({"folds": 2, "fold": 0}, "fold 0 is not one of 2: expected --fold 1 to 2"),
        ({"folds": 2, "fold": 3}, "fold 3 is not one of 2: expected --fold 1 to 2"),
        ({"group": "tile"}, "group 'tile' is unknown: expected one of number, prefix, folder"),
        ({"stripes": ()}, "a.tif: has no mask a_mask.tif beside it"),
        ({"bands": (1, 2, 4)}, "a.tif: has 3 bands, bands 1,2,4 were asked for"),
        ({"scenes": [Path("absent.tif")]}, "absent.tif: no such file or folder"),
        ({"masks": [Path("absent")]}, "absent: no such file or folder"),
        ({"bundles": [Path("absent.ecea")]}, "absent.ecea: is not a bundle"),
        ({"bundles": [Path("absent.ecea")], "engine": "fp8"}, "engine 'fp8' is unknown"),
        ({"checkpoints": [Path("absent.pth")]}, "absent.pth does not exist"),
        ({"outputs": [Path("out.csv")]}, "out.csv: does not end in .json or .md"),
        ({"sheet": Path("sheet.jpg")}, "sheet.jpg: does not end in .png"),
        ({"sheet": Path("absent/sheet.png")}, "absent"),
        ({"engine": "int8"}, "--engine and --backend are for bundles, and none is named"),
        ({"backend": "cpu", "checkpoints": [Path("G.pth")]}, "--engine and --backend are for bundles, and none is"),
        ({"num_heads": (1, 1, 1, 1)}, "--num-heads is for checkpoints, and none is named"),
        ({"published": True}, "--published measures what networks draw, and baselines alone are named"),
        ({"outputs": [Path("a.md"), Path("./a.md")]}, "a.md: is named for two outputs"),
    ],
    ids=lambda value: ",".join(f"{key}={given}" for key, given in value.items()) if isinstance(value, dict) else "",
)
def test_refusals(changes: dict[str, Any], said: str, job: Job) -> None:
    assert said in refusal(job, **changes)


def test_scenes_that_cannot_be_evaluated(job: Job, noise: NDArray[np.uint8], write_raster: Make) -> None:
    folder = job.scenes[0].parent
    void = write_raster(folder / "void.tif", np.zeros_like(noise), nodata=0)
    tiny = write_raster(folder / "tiny.tif", noise[:, :10])
    text = folder / "text.tif"
    text.write_text("no raster")
    (folder / "empty").mkdir()
    assert "void.tif: has no valid pixel at all" in refusal(job, scenes=[void])
    assert "tiny.tif: is 50 x 10 px, smaller than the 11 px" in refusal(job, scenes=[tiny])
    assert "text.tif: is not a raster that GDAL opens" in refusal(job, scenes=[text])
    assert "empty: holds no raster" in refusal(job, scenes=[folder / "empty"])


def test_a_pipe_is_not_waited_for(job: Job, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tif")
    for changes in ({"scenes": [tmp_path / "pipe.tif"]}, {"masks": [tmp_path / "pipe.tif"]}):
        assert "pipe.tif: is a device or a pipe" in refusal(job, **changes)


@pytest.mark.parametrize("named", ["scene", "mask", "own mask", "behind a VRT", "mask of a list"])
def test_what_is_read_is_not_overwritten(
    named: str, job: Job, noise: NDArray[np.uint8], write_raster: Make, tmp_path: Path
) -> None:
    """A scene became its own contact sheet."""
    scene = write_raster(tmp_path / "s.png", noise, driver="PNG")
    holes = (noise[:1] > 100).astype(np.uint8)
    mask = write_raster(tmp_path / "s_mask.png", holes, driver="PNG")
    changes: dict[str, Any] = {"scenes": [scene], "sheet": mask}
    if named == "scene":
        changes["sheet"] = scene
    elif named == "mask":
        changes["masks"] = [mask]
    elif named == "own mask":
        changes["stripes"] = ()
    elif named == "behind a VRT":
        rasterio.shutil.copy(scene, tmp_path / "v.vrt", driver="VRT")
        changes |= {"scenes": [tmp_path / "v.vrt"], "sheet": scene}
    else:
        (tmp_path / "data.toml").write_text('[[source]]\npath = "s.png"\nmask = "s_mask.png"\n')
        changes["scenes"] = [tmp_path / "data.toml"]
    before = scene.read_bytes(), mask.read_bytes()
    with pytest.raises(RequestError, match=r"\.png: is read for this evaluation, so it is not overwritten"):
        run(replace(job, **changes), as_json=False)
    assert (scene.read_bytes(), mask.read_bytes()) == before


def test_a_bundle_is_not_overwritten(job: Job, tmp_path: Path) -> None:
    manifest = tmp_path / "renamed" / "manifest.json"  # one of the usual name takes nothing, whoever reads it
    manifest.parent.mkdir()
    manifest.write_text("{}")
    with pytest.raises(RequestError, match=r"manifest\.json: is read for this evaluation"):
        run(replace(job, bundles=[manifest.parent], outputs=[manifest]), as_json=False)
    assert manifest.read_text() == "{}"


def test_names_that_two_would_share(job: Job, noise: NDArray[np.uint8], write_raster: Make) -> None:
    folder = job.scenes[0].parent
    holes = (noise[:1] > 100).astype(np.uint8)
    masks = [write_raster(folder / "m.tif", holes), write_raster(folder / "m.png", holes, driver="PNG")]
    assert "2 masks are named 'm'" in refusal(job, masks=masks)


@pytest.mark.timeout(60)
def test_a_scene_that_is_named_twice(job: Job) -> None:
    """The contact sheet looked for another one for ever."""
    (job.scenes[0].parent.parent / "more.toml").write_text(f'[[source]]\npath = "{job.scenes[0]}"\n' * 2)
    said = refusal(job, scenes=[job.scenes[0].parent.parent / "more.toml"])
    assert "is named twice, and results go by path and bands: name it once" in said


def test_a_mask_without_a_hole(job: Job, noise: NDArray[np.uint8], write_raster: Make) -> None:
    flat = write_raster(job.scenes[0].parent / "flat.tif", np.zeros_like(noise[:1]))
    assert "flat.tif: has no hole" in refusal(job, masks=[flat])


def test_a_list_says_what_differs_between_scenes(job: Job, noise: NDArray[np.uint8], write_raster: Make) -> None:
    """As for training: bands, stretch and mask of each, and what is one scene."""
    folder = job.scenes[0].parent
    four = write_raster(folder.parent / "four.tif", np.concatenate([noise, noise[:1] // 2]), nodata=0)
    holes = noise.copy()
    holes[:, :, :10] = 0
    water = write_raster(folder.parent / "water.tif", holes, nodata=0)
    (folder.parent / "data.toml").write_text(
        f"""
        [[source]]
        path = "{four.name}"
        scene = "one"
        bands = [[1, 2, 3], [4, 3, 2]]
        stretch = [0, 100, 1]
        [[source]]
        path = "{water.name}"
        scene = "two"
        mask = "none"
        """
    )
    listed = folder.parent / "data.toml"
    stretches = evaluated(job, scenes=[listed])["stretches"]
    assert stretches == {
        str(four): [0, 100, 1], f"{four} (bands 4,3,2)": [0, 100, 1], str(water): [0, 255, 1],
    }  # fmt: skip
    # What is declared to be nodata counts in the second; in the folder's own way of reading it does not.
    with_water = evaluated(job, scenes=[listed], folds=2, fold=2)["results"][0]["outcome"]["whole"]["pixels"]
    without = evaluated(job, scenes=[water])["results"][0]["outcome"]["whole"]["pixels"]
    assert (with_water, without) == (50 * 40, 40 * 40)
    with pytest.raises(RequestError, match=r"data\.toml: is not TOML"):
        listed.write_text("[[source")
        evaluated(job, scenes=[listed])
