"""``ecea-train`` on several devices: a process for each, and one that speaks."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ecea.model import load_generator

COMMAND = "from ecea.training.cli import main\nmain()\n"
SMALL = (
    "--image-size", "64", "--embed-dim", "8", "--depth", "1,1,1,1", "--batch-size", "1", "--epochs", "1",
    "--device", "cpu", "--devices", "2", "--threads", "1",
)  # fmt: skip
SECONDS = 120  # until a process counts as hung

# What the second of two processes is given cannot be learned from.
ONE_IS_BROKEN = """
import os
from ecea.training import pair
if os.environ.get("LOCAL_RANK") == "1":
    whole = pair.losses.weighted_l1
    pair.losses.weighted_l1 = lambda *given: whole(*given) * float("nan")
"""


def begin(folder: Path, *arguments: object, before: str = "") -> subprocess.Popen[str]:
    """Start the command from a script, as an installation has one: the other process is started from it too."""
    script = folder / "ecea-train.py"
    script.write_text(before + COMMAND)
    command = [sys.executable, str(script), *SMALL, *map(str, arguments)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_devices_share_an_epoch_and_one_process_speaks(patches: Path, tmp_path: Path) -> None:
    begun = begin(tmp_path, patches, "-o", "run", "--tiles-per-epoch", 4)
    out, err = begun.communicate(timeout=SECONDS)
    assert (begun.returncode, err) == (0, "")
    assert " x 2, fp32\n" in out
    assert out.count("trained     run/G_1.pth") == 1
    assert load_generator(tmp_path / "run" / "G_1.pth").config.img_size == 64


@pytest.mark.parametrize(
    ("tiles", "before", "status", "said"),
    [
        (1, "", 2, "an epoch of 1 tile is less than a batch of 1 on 2 devices"),
        (4, ONE_IS_BROKEN, 1, "epoch 1, batch 1: the generator's loss is nan (adversarial 0."),
    ],
    ids=["refused", "no number on the other device"],
)
def test_what_goes_wrong_on_two_devices_is_one_sentence(
    tiles: int, before: str, status: int, said: str, patches: Path, tmp_path: Path
) -> None:
    begun = begin(tmp_path, patches, "-o", "run", "--tiles-per-epoch", tiles, before=before)
    _, err = begun.communicate(timeout=SECONDS)
    assert begun.returncode == status
    assert err.startswith(f"ecea-train: {said}")
    assert err.count("\n") == 1


def test_an_interrupt_of_one_process_is_one_sentence(patches: Path, tmp_path: Path) -> None:
    """The other one, which loses it, says nothing."""
    begun = begin(tmp_path, patches, "-o", "run", "--tiles-per-epoch", 4000)
    assert begun.stdout is not None
    while not begun.stdout.readline().startswith("output"):
        assert begun.poll() is None
    begun.send_signal(signal.SIGTERM)
    _, err = begun.communicate(timeout=SECONDS)
    assert begun.returncode == 1
    assert err == "ecea-train: interrupted: what was not finished was not written\n"
