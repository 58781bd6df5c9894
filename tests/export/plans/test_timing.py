"""Timing caches in the user's folder: those of this machine stay, and no more than a few."""

from __future__ import annotations

import os
import time
from pathlib import Path

from ecea.export.plans.timing import read_timings, write_timings

DAY = 24 * 3600


def aged(path: Path, seconds: float) -> Path:
    """The path, last changed some time ago."""
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def test_old_timings_and_abandoned_ones_are_deleted_and_nothing_else(tmp_path: Path) -> None:
    files = [tmp_path / f"tensorrt-timing-{number:024x}" for number in range(12)]
    for age, file in enumerate(files):
        write_timings(file, b"timings")
        aged(file, 100 + age)
    killed = tmp_path / f".{files[0].name}.0123abcd"
    others = [tmp_path / f"{0:024x}", tmp_path / "tensorrt-timing-notes", tmp_path / f".{files[1].name}.0123abcd"]
    for path in (killed, *others):
        path.write_bytes(b"")
    for path in (killed, *others[:2]):
        aged(path, 2 * DAY)
    new = tmp_path / f"tensorrt-timing-{12:024x}"
    write_timings(new, b"of another driver")
    assert sorted(tmp_path.iterdir()) == sorted([new, *files[:7], *others])
    assert read_timings(new) == b"of another driver"
