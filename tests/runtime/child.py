"""A process of its own that fills a scene with an engine that needs no network: to be limited, or interrupted.

python child.py limited FOLDER SHARE...   fill with files limited to shares of the whole output; print what came
python child.py slow FOLDER               fill with 0.1 s a tile, and say when it has begun
"""

import json
import resource
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import rasterio
import typer

from ecea.runtime import EceaError, Engine, inpaint
from ecea.runtime.bundle import Bundle
from ecea.runtime.command import sentences

SOURCE, OUTPUT = "scene.tif", "filled.tif"


class Session:
    arithmetic = "f32"

    def __init__(self, seconds):
        self.seconds = seconds

    def infer(self, image, edge, mask):
        if self.seconds:
            print("running", flush=True)
            time.sleep(self.seconds)
        return np.full_like(image, 0.5), edge

    def close(self):
        pass


def engine(seconds=0.0):
    bundle = Bundle(Path("fake.ecea"), "0" * 64, {"img_size": 64}, ())
    return Engine(Session(seconds), bundle=bundle, found="test", engine="fp32", backend="fake", passed_over={})


def write_scene(path, height, width):
    values = np.random.default_rng(0).integers(1, 65_000, (3, height, width)).astype(np.uint16)
    values[:, ::50] = 0
    options = {"driver": "GTiff", "count": 3, "height": height, "width": width, "dtype": "uint16", "nodata": 0}
    with rasterio.open(path, "w", **options) as target:
        target.write(values)


def limited(folder, shares):
    """One line for each share: what was raised, or that nothing was, and what lies in the folder."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    write_scene(folder / SOURCE, 300, 520)
    output = folder / OUTPUT
    inpaint(folder / SOURCE, output, engine())
    whole = output.stat().st_size
    with rasterio.open(output) as source:
        expected = source.read()
    output.unlink()
    for share in map(float, shares):
        size = whole - 1 if share == 1 else int(whole * share)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        try:
            inpaint(folder / SOURCE, output, engine())
            outcome = "done"
        except EceaError as error:
            outcome = f"{type(error).__name__}: {error}"
        left = sorted(path.name for path in folder.iterdir() if path.name != SOURCE)
        whole_output = False
        if output.exists():
            with rasterio.open(output) as source:
                whole_output = bool(np.array_equal(source.read(), expected))
            output.unlink()
        print(json.dumps({"share": share, "outcome": outcome, "left": left, "whole": whole_output}), flush=True)


def slow(folder):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    write_scene(folder / SOURCE, 2000, 200)
    try:
        with sentences("child", debug=False):
            inpaint(folder / SOURCE, folder / OUTPUT, engine(0.1))
    except typer.Exit as status:
        sys.exit(status.exit_code)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    command, place, *rest = sys.argv[1:]
    if command == "limited":
        limited(Path(place), rest)
    else:
        slow(Path(place))
