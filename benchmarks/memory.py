"""Peak memory of ``ecea-run`` against the height of the scene: it must not grow with it.

    python benchmarks/memory.py --bundle site.ecea

Runs the real command on scenes of 1,000 and 16,000 rows in processes of their own, takes the peak resident size that
the operating system accounts for each, prints the ratio and writes JSON.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import rasterio
import typer
from rasterio.windows import Window

from ecea.runtime.command import start_script
from ecea.runtime.slc_off import slc_off_gaps
from ecea.runtime.writer import check_destination, written_whole

ROWS = (1_000, 16_000)
RESULT = Path(__file__).parent / "results" / "memory.json"

_CHUNK = 500  # rows written at once


def main(
    bundle: Annotated[Path, typer.Option(help="Bundle to run.")],
    engine: Annotated[str, typer.Option(help="fp32, fp16 or int8.")] = "fp32",
    backend: Annotated[str, typer.Option(help="auto, openvino or cpu.")] = "auto",
    width: Annotated[int, typer.Option(help="Columns of the scenes.")] = 1_000,
    output: Annotated[Path, typer.Option(help="Where the JSON goes.")] = RESULT,
) -> None:
    """Measure the peak memory of ecea-run on a low and a high scene, and write JSON."""
    check_destination(output)
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for rows in ROWS:
            scene = Path(folder) / f"scene_{rows}.tif"
            write_scene(scene, rows, width)
            peaks[rows] = peak_megabytes(
                "ecea-run", str(scene), "-o", f"{folder}/filled.tif", "--bundle", str(bundle.absolute()),
                "--engine", engine, "--backend", backend,
            )  # fmt: skip
            print(f"{rows:>7,} x {width:,} px: peak {peaks[rows]:.0f} MB", flush=True)
    low, high = (peaks[rows] for rows in ROWS)
    print(f"{ROWS[1] // ROWS[0]} times the rows take {high / low:.3f} times the memory ({high - low:+.1f} MB)")
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        "bundle": bundle.name,
        "engine": engine,
        "backend": backend,
        "width": width,
        "peak_mb": {str(rows): round(peak, 1) for rows, peak in peaks.items()},
        "ratio": round(high / low, 4),
    }
    with written_whole(output) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")


def write_scene(path: Path, height: int, width: int) -> None:
    """Write a uint16 scene with SLC-off gaps, a few rows at a time."""
    rng = np.random.default_rng(0)
    profile = {
        "driver": "GTiff", "height": height, "width": width, "count": 3, "dtype": "uint16", "nodata": 0,
        "tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate", "crs": "EPSG:32610",
        "transform": rasterio.Affine(30, 0, 500_000, 0, -30, 4_000_000),
    }  # fmt: skip
    gaps = slc_off_gaps(_CHUNK, width)
    with rasterio.open(path, "w", **profile) as scene:
        for top in range(0, height, _CHUNK):
            values = rng.integers(8_000, 20_000, (3, _CHUNK, width), np.uint16)
            values[:, gaps] = 0
            scene.write(values, window=Window(0, top, width, _CHUNK))


# Starts a command and tells its peak resident size. The system counts what a process held when it started another as
# the other's own, so the one that starts it has to be small.
_LAUNCHER = """
import os, sys
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
_, status, usage = os.wait4(child, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def peak_megabytes(*command: str) -> float:
    """Run a command of this environment to its end; return its peak resident size in MB."""
    executable = Path(sys.executable).with_name(command[0])
    launcher = [sys.executable, "-c", _LAUNCHER, str(executable), *command[1:]]
    done = subprocess.run(launcher, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}")
    return int(done.stdout) / 1024  # Linux counts KiB


if __name__ == "__main__":
    start_script("python benchmarks/memory.py", main)
