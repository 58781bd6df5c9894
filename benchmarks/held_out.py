"""How far a network that has seen none of the eight scenes is ahead of the best baseline on them, fold by fold.

    python benchmarks/held_out.py training/weights/unet.safetensors --data shared/data

Whole scenes, stripes of three widths and a real SLC-off mask, as ``ecea-evaluate`` fills and measures them. The best of
the four baselines that the goal names is taken in each cell. The scenes are not part of this project: the folder
holds ``clear/``, ``patches/`` and ``masks/`` with the files named here.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer

from ecea.runtime.command import Threads, start_script
from ecea.runtime.engine import open_engine
from ecea.runtime.errors import RequestError
from ecea.runtime.writer import check_destination, written_whole
from ecea.training.evaluation.baselines import BASELINES
from ecea.training.evaluation.checkpoint import open_checkpoint
from ecea.training.evaluation.evaluate import Outcome, evaluate
from ecea.training.evaluation.gaps import GapSource, mask_source, stripes
from ecea.training.evaluation.methods import BaselineMethod, GeneratorMethod, Method
from ecea.training.evaluation.metrics import Scores
from ecea.training.folds import held_out_scenes
from ecea.training.sources import Source, find_sources

RESULT = Path(__file__).parent / "results" / "held_out.json"

# Scene -> its files and their bands.
SCENES = {
    "imagefusion": ("clear/ImageFusion_L_2016_220_4band.tif", (4, 3, 2)),
    "San Francisco": ("clear/opengeos_landsat7_sanfrancisco_NIR-R-G.tif", (1, 2, 3)),
    "patches": ("patches", (1, 2, 3)),
    "stars": ("clear/stars_L7_ETMs_6band.tif", (3, 2, 1)),
    "le7022049": ("clear/LE70220491999322EDC01_stack.tif", (3, 2, 1)),
    "zion": ("clear/LC80380342015230_zion_B4-B3-B2.tif", (1, 2, 3)),
    "Peru": ("clear/opengeos_peru_*_SWIR1-NIR-R-G.tif", (1, 2, 3)),
    "RGB overview": ("clear/rasterio_RGB.byte.tif", (1, 2, 3)),
}
WITHOUT_NODATA = {"San Francisco"}  # all of it is land and water, zeros too
WIDTHS = (2, 8, 14)
MASK = "masks/slcoff_mask_A_real_1207x1200.tif"
FOLDS = 5
# Those that the goal names. ``laplace``, the fifth, is ahead of them.
FOUR = tuple(name for name in BASELINES if name != "laplace")


def main(
    network: Annotated[Path, typer.Argument(metavar="NETWORK", help="Checkpoint, or bundle (NAME.ecea).")],
    data: Annotated[Path, typer.Option(help="Folder of the scenes.")] = Path("../shared/data"),
    threads: Threads = None,
    output: Annotated[Path, typer.Option(help="Where the JSON goes.")] = RESULT,
) -> None:
    """Fill the gaps of every scene with NETWORK and with the baselines, print a table and write JSON."""
    check_destination(output)
    gaps: list[GapSource] = [*stripes(WIDTHS), mask_source(data / MASK)]
    opened = open_engine(network, threads=threads) if network.is_dir() else open_checkpoint(network, threads=threads)
    scenes: dict[str, dict[str, Any]] = {}
    with closing(opened) as engine:
        methods: list[Method] = [*map(BaselineMethod, FOUR), GeneratorMethod(engine, network.name)]
        for scene in SCENES:
            found = evaluate(_sources(data, scene), gaps, methods).results
            by_gaps: defaultdict[str, dict[str, Outcome]] = defaultdict(dict)
            for result in found:
                by_gaps[result.gaps][result.method] = result.outcome
            scenes[scene] = {label: _ahead(outcomes, network.name) for label, outcomes in by_gaps.items()}
            print(_row(scene, scenes[scene]), flush=True)
    folds = {
        label: fmean(fmean(scenes[name][label]["psnr_db"] for name in _fold(number)) for number in range(1, FOLDS + 1))
        for label in (source.label for source in gaps)
    }
    print("mean of the folds: " + ", ".join(f"{label} {value:.3f} dB" for label, value in folds.items()))
    record = {"network": network.name, "sha256": engine.bundle.sha256, "mean_of_folds_db": folds, "scenes": scenes}
    with written_whole(output) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")


def _sources(data: Path, scene: str) -> list[Source]:
    pattern, bands = SCENES[scene]
    files = sorted(data.glob(pattern))
    if not files:
        raise RequestError(f"{data / pattern}: no such scene: name the folder of the scenes with --data")
    nodata = "none" if scene in WITHOUT_NODATA else "nodata"
    return find_sources([str(path) for path in files], bands=bands, mask=nodata)


def _fold(number: int) -> list[str]:
    held_out = held_out_scenes((name.lower() for name in SCENES), FOLDS, number)
    return [name for name in SCENES if name.lower() in held_out]


def _ahead(outcomes: dict[str, Outcome], network: str) -> dict[str, Any]:
    """By how much the network leads over gap pixels, and over those of each gap width; and its edge step."""
    own, others = outcomes[network], [outcomes[name] for name in FOUR]
    by_width = {
        width: _lead(scores, [other.widths[width] for other in others])
        for width, scores in own.widths.items()
        if scores.pixels
    }
    return {**_lead(own.gap, [other.gap for other in others]), "edge_step": own.steps.edge, "by_width": by_width}


def _lead(own: Scores, others: Sequence[Scores]) -> dict[str, float]:
    """dB and SSIM over the best of others, which need not be the same one."""
    best = max(_db(other) for other in others)
    ssim = max(other.ssim or 0 for other in others)
    lead = {"psnr_db": _db(own) - best, "ssim": (own.ssim or 0) - ssim}
    return {**lead, "best_baseline_db": best, "pixels": own.pixels}


def _db(scores: Scores) -> float:
    assert scores.psnr_db is not None, "there are pixels"
    return scores.psnr_db


def _row(scene: str, cells: dict[str, dict[str, Any]]) -> str:
    ahead = (f"{cell['psnr_db']:.2f} ({cell['ssim']:.3f})" for cell in cells.values())
    return f"| {scene} | {' | '.join(ahead)} | {list(cells.values())[-1]['edge_step']:.2f} |"


if __name__ == "__main__":
    start_script("python benchmarks/held_out.py", main)
