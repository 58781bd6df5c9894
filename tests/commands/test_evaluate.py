"""``ecea-evaluate`` as users start it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from ecea.runtime.stretch import Stretch
from ecea.training.evaluation.job import Job

Run = Callable[..., Any]


@pytest.fixture
def clean(write_scene: Run) -> Path:
    """A scene without gaps, 8 bits, 70 x 60 px: a ramp of brightness with noise."""
    rng = np.random.default_rng(1)
    values = np.linspace(20, 150, 60)[:, None] + rng.integers(0, 20, (3, 60, 70))
    return write_scene("clean.tif", values.astype(np.uint8))


def test_a_bundle_beside_the_baselines(run: Run, bundle: Path, clean: Path, tmp_path: Path) -> None:
    done = run(
        "ecea-evaluate", "--scenes", "clean.tif", "--stripes", "3,9", "--bundle", "tiny.ecea", "--backend", "cpu",
        "--baseline", "all", "--published", "-o", "out.json", "-o", "out.MD", "--sheet", "sheet.PNG",
    )  # fmt: skip
    assert (done.status, done.stderr) == (0, "")
    for text in ("Over gap pixels", "stripes of 9 px", "tiny.ecea fp32", "fillnodata", "(clean scene)", "9-14 px"):
        assert text in done.stdout
    content = json.loads((tmp_path / "out.json").read_text())
    assert len(content["results"]) == 2 * 6
    tiny = [result["outcome"] for result in content["results"] if result["method"] == "tiny.ecea fp32"]
    # Its generator fills every gap with 0.25 and darkens the rest by half, which nobody sees but in --published.
    truth = np.asarray(_read(clean), float)
    assert tiny[0]["whole"]["rmse"] < tiny[0]["generated"]["rmse"]
    for outcome in tiny:
        assert outcome["gap"]["rmse"] < np.abs(truth / 255 - 0.25).max()
        assert outcome["gap"]["psnr_db"] < content["results"][0]["outcome"]["gap"]["psnr_db"]
        assert outcome["pixels_left"] == 0
    (about,) = (method["about"] for method in content["methods"] if not method["is_baseline"])
    assert (about["path"], about["engine"], about["backend"]) == ("tiny.ecea", "fp32", "cpu")
    assert (tmp_path / "out.MD").read_text().startswith("**Over gap pixels**")
    with Image.open(tmp_path / "sheet.PNG") as sheet:
        assert sheet.width > 7 * 200


def test_json_for_programs(run_here: Run, clean: Path) -> None:
    done = run_here("ecea-evaluate", "--scenes", "clean.tif", "--stripes", "3", "--baseline", "nearest", "--json")
    assert (done.status, done.stderr) == (0, "")
    assert [result["gaps"] for result in json.loads(done.stdout)["results"]] == ["stripes of 3 px"]


def test_every_option_reaches_the_work(run_here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Mock()
    monkeypatch.setattr("ecea.training.evaluation.job.run", work)
    words = (
        "--scenes a --scenes b --bundle c --bundle d --checkpoint e --checkpoint f --baseline telea --baseline laplace "
        "--masks g --masks h --stripes 3,9 --seed 2 --folds 5 --fold 4 --group prefix --bands 4,3,2 --stretch 1,2,3 "
        "--engine int8 --backend cpu --num-heads 8,4,2,1 --threads 6 --published -o i.json -o j.md --sheet k.png --json"
    )
    assert run_here("ecea-evaluate", *words.split()).status == 0
    job = Job(
        scenes=[Path("a"), Path("b")],
        bundles=[Path("c"), Path("d")],
        checkpoints=[Path("e"), Path("f")],
        baselines=["telea", "laplace"],
        masks=[Path("g"), Path("h")],
        stripes=(3, 9),
        seed=2,
        folds=5,
        fold=4,
        group="prefix",
        bands=(4, 3, 2),
        stretch=Stretch(1, 2, 3),
        engine="int8",
        backend="cpu",
        num_heads=(8, 4, 2, 1),
        threads=6,
        published=True,
        outputs=[Path("i.json"), Path("j.md")],
        sheet=Path("k.png"),
    )
    work.assert_called_once_with(job, as_json=True)


def test_nothing_is_named(run_here: Run, clean: Path) -> None:
    assert "found no bundle" in run_here("ecea-evaluate", "--scenes", "clean.tif", "--stripes", "3").sentence()
    assert "--scenes" in run_here("ecea-evaluate").sentence()


def test_a_bundle_without_the_engine(run_here: Run, bundle: Path, clean: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    sentence = run_here(
        "ecea-evaluate", "--scenes", "clean.tif", "--stripes", "3", "--bundle", "tiny.ecea", "--engine", "int8",
        "-o", "out.json",
    ).sentence()  # fmt: skip
    assert sentence.startswith("tiny.ecea: holds no int8 engine, only fp32")
    assert sorted(tmp_path.iterdir()) == before


def test_without_what_it_needs(run: Run, without: Run, clean: Path) -> None:
    sentence = run("ecea-evaluate", "--scenes", "clean.tif", env=without("skimage")).sentence()
    assert "no libskimage.so on this machine" in sentence
    assert "install ecea with its 'train' extra" in sentence


def test_a_checkpoint_without_torch(run: Run, without: Run, clean: Path, tmp_path: Path) -> None:
    (tmp_path / "G.pth").write_bytes(b"")
    arguments = ("--scenes", "clean.tif", "--stripes", "3", "--checkpoint", "G.pth")
    sentence = run("ecea-evaluate", *arguments, env=without("torch")).sentence()
    assert sentence.startswith("G.pth: evaluating a checkpoint needs torch")


def _read(path: Path) -> Any:
    import rasterio

    with rasterio.open(path) as dataset:
        return dataset.read()
