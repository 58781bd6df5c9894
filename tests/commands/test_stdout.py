"""Commands whose output nothing can take: one sentence, status 1, and what was to be written is there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ecea.export.compact import main as compact
from ecea.export.table import print_bundle
from ecea.model import UNet
from ecea.runtime.bundle import read_bundle
from ecea.runtime.command import start_script
from ecea.runtime.errors import EceaError

FULL = Path("/dev/full")
SAID = "standard output cannot be written (No space left on device)"
EVALUATE = ("ecea-evaluate", "--scenes", "clean.tif", "--stripes", "3", "--baseline", "nearest", "-o", "out.json")
SMALL = ("--network", "unet", "--image-size", "64", "--batch-size", "1", "--device", "cpu", "-o", "run")

pytestmark = pytest.mark.skipif(not FULL.exists(), reason="no full device here")


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Standard output becomes a device that is full; by lines, as containers have it (``PYTHONUNBUFFERED``)."""
    with FULL.open("w", buffering=1) as file:
        yield lambda: monkeypatch.setattr(sys, "stdout", file)


@pytest.fixture
def files(write_scene: Callable[..., Path], bundle: Path, tmp_path: Path) -> None:
    """``clean.tif``, 80 x 80 px without gaps; ``tiny.ecea``; ``U.pth``, a small U-Net's checkpoint."""
    write_scene("clean.tif", np.random.default_rng(1).integers(20, 170, (3, 80, 80)).astype(np.uint8))
    torch.save(UNet(3, (4, 6, 8)).state_dict(), tmp_path / "U.pth")


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("command", "written"),
    [
        (("ecea-profile", "--backend", "cpu", "--runs", "1", "-o", "out.json"), "out.json"),
        (EVALUATE, "out.json"),
        ((*EVALUATE, "--json"), "out.json"),
        (("ecea-export", "U.pth", "--engine", "fp32"), None),
        (("ecea-train", "clean.tif", *SMALL), None),
    ],
    ids=["profile", "evaluate", "evaluate --json", "export", "train"],
)
def test_a_command(
    command: tuple[str, ...],
    written: str | None,
    full: Callable[[], None],
    run_here: Callable[..., Any],
    tmp_path: Path,
) -> None:
    before = set(tmp_path.iterdir())
    full()
    assert run_here(*command).sentence(status=1) == SAID
    assert {path.name for path in set(tmp_path.iterdir()) - before} == ({written} if written else set())
    if written:
        assert json.loads((tmp_path / written).read_text())


@pytest.mark.usefixtures("files")
def test_a_compact_bundle(
    full: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    before = set(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["", "U.pth", "compact.ecea"])
    full()
    with pytest.raises(SystemExit) as ended:
        start_script("compact", compact)
    assert (ended.value.code, capfd.readouterr().err) == (1, f"compact: {SAID}\n")
    assert set(tmp_path.iterdir()) == before


def test_what_an_export_came_to(full: Callable[[], None], bundle: Path) -> None:
    full()
    with pytest.raises(EceaError) as raised:
        print_bundle(read_bundle(bundle))
    assert str(raised.value) == SAID


def test_a_result_for_a_program_that_is_not_there(
    files: None, run_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert run_here(*EVALUATE, "--json").sentence(status=1).startswith("standard output is closed")
    assert (tmp_path / "out.json").exists()


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "full"])
def test_errors_that_nothing_can_take_are_told_by_the_status(
    closed: bool, bundle: Path, monkeypatch: pytest.MonkeyPatch, run_here: Callable[..., Any]
) -> None:
    """And do not get in between what a program reads on stdout."""
    with FULL.open("w", buffering=1) as file:
        monkeypatch.setattr(sys, "stderr", None if closed else file)
        done = run_here("ecea-run", "absent.tif", "--backend", "cpu", "--json")
        with suppress(OSError):
            file.close()
    assert (done.status, done.stderr) == (2, "")
    assert [error["source"] for error in json.loads(done.stdout)["errors"]] == ["absent.tif"]
