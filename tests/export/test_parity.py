"""An engine that does not compute what PyTorch does is found, named, and never becomes a bundle."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from ecea.calibration import TileSource
from ecea.export import exporter, forms
from ecea.export.parity import (
    BATCHES,
    MAX_ERROR,
    MIN_PSNR,
    ParityError,
    Tiles,
    compare,
    parity_tiles,
    psnr,
    reference,
    tile_sources,
)
from ecea.runtime.backends.cpu import CpuSession
from ecea.runtime.bundle import OUTPUTS
from ecea.runtime.errors import EceaError, RequestError

Tensor = NDArray[np.float32]
Change = Callable[[Tensor, Tensor], Any]

WHERE = "generator.fp32.onnx on cpu"


class Session:
    """PyTorch's own results, changed."""

    arithmetic = "f32"

    def __init__(self, small: Any, change: Change = lambda out, out_edge: (out, out_edge)) -> None:
        self.expected, self.change = small.expected, change
        self.batches: list[int] = []

    def infer(self, image: Tensor, edge: Tensor, mask: Tensor) -> Any:
        self.batches.append(len(image))
        return self.change(*(output[: len(image)].copy() for output in self.expected))

    def close(self) -> None:
        pass


def compared(small: Any, change: Change, engine: str = "fp32") -> list[dict[str, Any]]:
    expected = dict(zip(OUTPUTS, small.expected, strict=True))
    return list(compare(Session(small, change), engine, WHERE, small.tiles, expected))


def shifted(output: str, by: float, tile: int | None = None) -> Change:
    """Add ``by`` to an output, in one tile or in all."""

    def change(out: Tensor, out_edge: Tensor) -> tuple[Tensor, Tensor]:
        changed = {"out": out, "out_edge": out_edge}[output]
        changed[slice(None) if tile is None else slice(tile, tile + 1)] += np.float32(by)
        return out, out_edge

    return change


def one_pixel(out: Tensor, out_edge: Tensor) -> tuple[Tensor, Tensor]:
    out[0, 1, 5, 7] += 2 * np.float32(MAX_ERROR["fp16"])
    return out, out_edge


def not_a_number(out: Tensor, out_edge: Tensor) -> tuple[Tensor, Tensor]:
    out_edge[0, 0, 5, 7] = np.nan
    return out, out_edge


def infinite(out: Tensor, out_edge: Tensor) -> tuple[Tensor, Tensor]:
    out[0, 0, 0, 0] = np.inf
    return out, out_edge


# What is compared with


def test_the_built_in_tiles(small: Any) -> None:
    tiles = small.tiles
    assert tiles.source == "the built-in sample scene"
    assert [part.shape for part in tiles.first(8)] == [(8, 3, 64, 64), (8, 1, 64, 64), (8, 1, 64, 64)]
    assert {part.dtype for part in tiles.first(8)} == {np.dtype(np.float32)}
    share = tiles.mask.mean(axis=(1, 2, 3))
    assert (share > 0).all()
    assert (share < 1).all()
    assert set(np.unique(tiles.mask)) == {0, 1}
    assert not (tiles.image * tiles.mask).any()
    assert 0 <= tiles.image.min() < tiles.image.max() <= 1
    assert ((tiles.edge.max(axis=(1, 2, 3)) == 1).sum()) >= 6  # one with little but gap may show no edge
    assert len({tile.tobytes() for tile in tiles.image}) == 8


def tiles_of(*scenes: Path, **options: Any) -> Tiles:
    with tile_sources(scenes, 64, options) as sources:
        return parity_tiles(sources)


def test_tiles_are_spread_over_all_that_there_are() -> None:
    def numbered() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for number in range(1000):
            image = np.full((3, 4, 4), number, np.float32)
            yield image, image[:1], np.ones_like(image[:1])

    chosen = parity_tiles([TileSource("numbered", numbered)]).image[:, 0, 0, 0]
    steps = np.diff(chosen)
    assert 0 < steps.max() <= 2 * steps.min()
    assert chosen[0] < 125
    assert chosen[-1] >= 750


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_tiles_of_ones_own_scenes(tmp_path: Path, write_raster: Callable[..., Path]) -> None:
    rng = np.random.default_rng(0)
    scenes = []
    for name in ("a.tif", "b.tif"):
        values = rng.integers(1, 255, (4, 64, 200), dtype=np.uint8)
        values[:, 30:33] = 0
        scenes.append(write_raster(tmp_path / name, values, nodata=0, photometric="MINISBLACK"))
    tiles = tiles_of(*scenes, bands=(4, 3, 2), stretch=(0, 510, 1))
    assert tiles.source == "a.tif, b.tif"
    assert tiles.image.shape == (8, 3, 64, 64)
    assert tiles.image.max() <= 0.5


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_one_tile_is_repeated(tmp_path: Path, write_raster: Callable[..., Path]) -> None:
    values = np.random.default_rng(0).integers(1, 255, (3, 20, 20), dtype=np.uint8)
    values[:, 10] = 0
    tiles = tiles_of(write_raster(tmp_path / "a.tif", values, nodata=0, photometric="MINISBLACK"))
    assert len({tile.tobytes() for tile in tiles.image}) == 1
    assert len(tiles.image) == 8


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_scenes_without_a_gap_are_refused(tmp_path: Path, write_raster: Callable[..., Path]) -> None:
    with pytest.raises(RequestError, match=r"whole\.tif: holds no tile with a gap"):
        tiles_of(write_raster(tmp_path / "whole.tif", np.ones((3, 64, 64), np.uint8), nodata=0))


def test_the_reference_is_pytorch_tile_by_tile(small: Any) -> None:
    for name, output in reference(small.generator, small.tiles).items():
        np.testing.assert_allclose(output, small.expected[list(OUTPUTS).index(name)], atol=1e-5)


# What is compared


def test_every_batch_size_is_run(small: Any) -> None:
    session = Session(small)
    entries = list(compare(session, "fp32", WHERE, small.tiles, dict(zip(OUTPUTS, small.expected, strict=True))))
    assert session.batches == [1, 3, 8]
    assert entries == [
        {"output": name, "batches": list(BATCHES), "max_error": 0, "psnr_db": 150, "missing_psnr_db": 150}
        for name in ("out", "out_edge")
    ]


def test_what_is_within_tolerance_is_measured(small: Any) -> None:
    entries = compared(small, shifted("out", 2e-5))
    assert [entry["output"] for entry in entries] == ["out", "out_edge"]
    assert entries[0]["max_error"] == pytest.approx(2e-5, rel=1e-2)
    assert entries[0]["psnr_db"] == pytest.approx(-20 * math.log10(2e-5), abs=0.1)


def test_missing_pixels_are_measured_apart(small: Any) -> None:
    """What is wrong elsewhere never reaches a scene."""

    def around_gaps(out: Tensor, out_edge: Tensor) -> tuple[Tensor, Tensor]:
        return out + np.float32(2e-5) * (small.tiles.mask[: len(out)] == 0), out_edge

    entry, _ = compared(small, around_gaps)
    assert entry["missing_psnr_db"] == 150
    assert 90 < entry["psnr_db"] < 120


def test_missing_pixels_are_measured_over_all_tiles(small: Any) -> None:
    """As INT8's target is, whichever tile is the worst; a batch may hold that alone."""
    error = np.zeros_like(small.expected[0])
    error[0] = 2e-5
    missing = np.broadcast_to(small.tiles.mask > 0, error.shape)
    share = missing[0].sum() / missing.sum()
    entry, _ = compared(small, lambda out, edge: (out + error[: len(out)], edge))
    assert entry["missing_psnr_db"] == pytest.approx(-10 * math.log10(share * 2e-5**2), abs=0.2)


@pytest.mark.parametrize(
    ("change", "engine", "said"),
    [
        (shifted("out", 2e-4), "fp32", "'out' differs from PyTorch by 0.0002 .* at batch 1"),
        (shifted("out_edge", 2e-4), "fp32", "'out_edge' differs from PyTorch by 0.0002 .* at batch 1"),
        (shifted("out", 2e-4, tile=2), "fp32", "'out' differs from PyTorch .* at batch 3"),
        (shifted("out_edge", 2e-4, tile=7), "fp32", "'out_edge' differs from PyTorch .* at batch 8"),
        (one_pixel, "fp16", "'out' differs from PyTorch by 0.06 .* at batch 1"),
        (shifted("out", 5e-3), "fp16", r"'out' differs from PyTorch by 0.005 \(46.0 dB\)"),  # 50 dB are asked for
        (not_a_number, "fp32", r"'out_edge' differs from PyTorch by nan \(nan dB\)"),
        (not_a_number, "fp16", "'out_edge' differs from PyTorch by nan"),
        (infinite, "fp32", "'out' differs from PyTorch by inf"),
        (lambda out, out_edge: (out_edge, out), "fp32", "'out' has shape"),
        (lambda out, out_edge: (out[:1], out_edge), "fp32", "'out' has shape .* at batch 3"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_out_of_tolerance_is_named(change: Change, engine: str, said: str, small: Any) -> None:
    with pytest.raises(ParityError, match=f"^{WHERE}: output {said}"):
        compared(small, change, engine)


def test_an_engine_that_fails_is_named(small: Any) -> None:
    def fail(out: Tensor, out_edge: Tensor) -> None:
        if len(out) == 3:
            raise RuntimeError("got dimensions for inputs: 3, expected: 1")

    with pytest.raises(ParityError, match=f"^{WHERE}: fails at batch 1"):
        compared(small, lambda out, out_edge: fail(out, out_edge) or 1 / 0)
    with pytest.raises(ParityError, match=rf"^{WHERE}: fails at batch 3 \(got dimensions for inputs: 3, expected: 1\)"):
        compared(small, lambda out, out_edge: fail(out, out_edge) or (out, out_edge))


def test_psnr() -> None:
    assert psnr(np.full(10, 0.1, np.float32)) == pytest.approx(20)
    assert psnr(np.zeros(10, np.float32)) == 150
    assert math.isnan(psnr(np.array([np.nan], np.float32)))


def test_tolerances_are_below_what_anyone_sees() -> None:
    assert MAX_ERROR["fp32"] <= 1 / 255 / 25
    assert MIN_PSNR["fp16"] >= 50


# Nothing wrong becomes a bundle


def skip_overwritten(model: ir.Model) -> None:
    """What OpenVINO has been seen to do: a long-lived skip holds other numbers when it is read."""
    mixers = [node for node in model.graph if node.op_type == "MatMul" and node.inputs[0].is_initializer()]
    mixers[0].replace_input_with(1, mixers[1].inputs[1])


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """``site.ecea`` in ``tmp_path``, as an earlier export left it."""
    folder = tmp_path / "site.ecea"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    (folder / "generator.fp32.onnx").write_bytes(b"older")
    return folder


def test_a_wrong_graph_is_never_a_bundle(
    small: Any, quick_export: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    optimize = exporter.optimize

    def wrongly(model: ir.Model) -> None:
        optimize(model)
        skip_overwritten(model)

    monkeypatch.setattr(exporter, "optimize", wrongly)
    with pytest.raises(ParityError, match=r"^generator\.fp32\.onnx on cpu: output 'out(_edge)?' differs"):
        exporter.export_bundle(small.checkpoint, tmp_path / "site.ecea", engines=["fp32"])
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_backend_leaves_the_older_bundle(
    small: Any,
    quick_export: None,
    older: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    contents: Callable[[Path], dict[str, str]],
) -> None:
    before, infer, said = contents(tmp_path), CpuSession.infer, []

    def wrongly(self: CpuSession, image: Tensor, edge: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        out, out_edge = infer(self, image, edge, mask)
        return out, out_edge + np.float32(1e-3)

    monkeypatch.setattr(CpuSession, "infer", wrongly)
    with pytest.raises(ParityError, match=r"^generator\.fp32\.onnx on cpu: output 'out_edge' differs") as caught:
        exporter.export_bundle(small.checkpoint, older, engines=["fp32"], say=said.append)
    assert isinstance(caught.value, EceaError)
    assert caught.value.exit_status == 1
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["site.ecea"]
    assert not any("within" in line for line in said)


def test_one_wrong_form_among_sound_ones_is_found(
    small: Any, quick_export: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The last form of the last engine: everything else has passed by then."""
    half_storage = forms.half_storage

    def wrongly(model: ir.Model) -> None:
        half_storage(model)
        if any(node.domain == "com.microsoft" for node in model.graph):
            skip_overwritten_halves(model)

    monkeypatch.setattr(forms, "half_storage", wrongly)
    with pytest.raises(ParityError, match=r"^generator\.fp16\.cpu\.onnx on cpu: output 'out"):
        exporter.export_bundle(small.checkpoint, tmp_path / "site.ecea", engines=["fp16"])
    assert list(tmp_path.iterdir()) == []


def skip_overwritten_halves(model: ir.Model) -> None:
    """As :func:`skip_overwritten`, where weights pass through a Cast."""

    def is_mixer(node: ir.Node) -> bool:
        producer = node.inputs[0].producer() if node.op_type == "MatMul" else None
        return producer is not None and producer.op_type == "Cast" and producer.inputs[0].is_initializer()

    mixers = [node for node in model.graph if is_mixer(node)]
    mixers[0].replace_input_with(1, mixers[1].inputs[1])
