"""The benchmarks as they are started; what they measure is no test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cpu", ("--bundle", "none.ecea", "--checkpoint", "none.pth")),
        ("held_out", ("none.pth",)),
        ("keys", ("--checkpoint", "none.pth")),
        ("memory", ("--bundle", "none.ecea")),
    ],
)
def test_where_results_go_is_looked_at_first(name: str, arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Before minutes or hours of work, and before what is measured is."""
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *arguments, "--output", "no/result.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"python benchmarks/{name}.py: no/result.json: the folder no does not exist")
