"""The published network at its full size, 126 M parameters, through the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ecea.export.parity import MAX_ERROR, MIN_PSNR
from ecea.model import GeneratorConfig
from ecea.model.untrained import untrained_state_dict
from ecea.runtime import open_engine

COMMAND = "from ecea.export.cli import main; main()"
ON_TWO_TILES = f"""
from functools import partial
from ecea.export import checking, parity
parity.TILES = 2
checking.compare = partial(parity.compare, batches=(1, 2))
checking._TIMED_ROUNDS = 1
{COMMAND}
"""
"""The command, with engines compared on 3 tiles in place of 12: in half the time."""


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("code", "engines"),
    [(ON_TWO_TILES, ["fp32"]), pytest.param(COMMAND, ["fp32", "fp16"], marks=pytest.mark.slow)],
    ids=["fp32", "fp32,fp16"],
)
def test_a_full_size_checkpoint_becomes_a_bundle(code: str, engines: list[str], tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    torch.save(untrained_state_dict(GeneratorConfig(), seed=3), tmp_path / "full.pth")
    done = subprocess.run(
        [sys.executable, "-c", code, "full.pth", *(f"--engine={name}" for name in engines)],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "checkpoint  full.pth: 125.85 M parameters, tiles of 256 px"
    assert lines[-1].startswith(f"bundle      full.ecea: {', '.join(engines)}; ")
    manifest = json.loads((tmp_path / "full.ecea" / "manifest.json").read_text())
    assert len(manifest["engines"]) == 3 * len(engines)
    for record in manifest["engines"]:
        backends = [backend for backend in ("openvino", "cpu") if backend in record["backends"]] or ["cpu"]
        in_float32 = [entry["backend"] for entry in record["parity"] if entry["arithmetic"] == "f32"]
        assert in_float32 == [backend for backend in backends for _ in ("out", "out_edge")]
        for entry in record["parity"]:
            assert entry["max_error"] <= MAX_ERROR[record["engine"]]
            assert entry["psnr_db"] >= MIN_PSNR[record["engine"]]
            # One line for each, with the figures of the manifest.
            arithmetic = " in bf16" if entry["arithmetic"] == "bf16" else ""
            where = f"{record['files'][0]['name']} on {entry['backend']}{arithmetic}: '{entry['output']}' within "
            assert any(where in line and f"{entry['max_error']:.1e}" in line for line in lines)
    with open_engine(tmp_path / "full.ecea", backend="cpu") as engine:
        assert engine.tile_size == 256
