"""Engines that need no network, and scenes made where they are used."""

from __future__ import annotations

import hashlib
import importlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio import Affine

from ecea.runtime import Engine
from ecea.runtime.backends import nvidia
from ecea.runtime.bundle import Bundle
from ecea.runtime.recipe import Recipe
from ecea.runtime.stretch import Stretch

Tensor = NDArray[np.float32]
Answer = Callable[[Tensor, Tensor, Tensor], Tensor]

THREADS = "ecea-"


class FakeSession:
    """A session that answers with a function of its inputs, and remembers how often."""

    arithmetic = "f32"

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.tiles = 0

    def infer(self, image: Tensor, edge: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        self.tiles += len(image)
        return np.asarray(self.answer(image, edge, mask), np.float32), edge

    def close(self) -> None:
        pass


@pytest.fixture(scope="session")
def engine_of() -> Callable[..., Engine]:
    """``engine_of(answer, size=64)``: an engine for tiles of ``size`` that gives ``answer(image, edge, mask)``.

    A number stands for an engine that gives it everywhere.
    """

    def make(answer: Answer | float, size: int = 64) -> Engine:
        if isinstance(answer, int | float):
            value = answer

            def answer(image: Tensor, edge: Tensor, mask: Tensor) -> Tensor:
                return np.full_like(image, value)

        bundle = Bundle(Path("fake.ecea"), "0" * 64, {"img_size": size}, ())
        return Engine(FakeSession(answer), bundle=bundle, found="test", engine="fp32", backend="fake", passed_over={})

    return make


@pytest.fixture(scope="session")
def write_scene(write_raster: Callable[..., Path]) -> Callable[..., Path]:
    """``write_scene(path, values, **profile)``: a raster with (bands, H, W) values, in UTM unless told otherwise."""

    def write(path: Path, values: NDArray[Any], **profile: Any) -> Path:
        place = {"crs": "EPSG:32633", "transform": Affine(30, 0, 500_000, 0, -30, 4_000_000)}
        return write_raster(path, values, **{**place, **profile})

    return write


@pytest.fixture(scope="session")
def read_bands() -> Callable[[Path], NDArray[Any]]:
    """All values of a raster, (bands, H, W)."""

    def read(path: Path) -> NDArray[Any]:
        with rasterio.open(path) as source:
            return np.asarray(source.read())

    return read


@pytest.fixture(scope="session")
def write_vrt() -> Callable[..., Path]:
    """``write_vrt(path, source, nodata, kind)``: a VRT over a raster beside it, with a nodata value for each band."""

    def write(path: Path, source: str, nodata: tuple[float, ...], kind: str = "UInt16") -> Path:
        with rasterio.open(path.with_name(source)) as opened:
            width, height = opened.width, opened.height
        bands = "".join(
            f'<VRTRasterBand dataType="{kind}" band="{band}"><Description>band {band}</Description>'
            f"<NoDataValue>{value}</NoDataValue><SimpleSource>"
            f'<SourceFilename relativeToVRT="1">{source}</SourceFilename><SourceBand>{band}</SourceBand>'
            "</SimpleSource></VRTRasterBand>"
            for band, value in enumerate(nodata, 1)
        )
        path.write_text(
            f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}"><SRS>EPSG:32633</SRS>'
            f"<GeoTransform>500000,30,0,4000000,0,-30</GeoTransform>{bands}</VRTDataset>"
        )
        return path

    return write


@pytest.fixture
def striped(tmp_path: Path, write_scene: Callable[..., Path]) -> tuple[Path, NDArray[np.uint8], NDArray[np.uint8]]:
    """A scene with a gap of three rows; its values; and what it is to become with an engine that gives 0.5."""
    values = np.random.default_rng(0).integers(1, 255, (3, 70, 80)).astype(np.uint8)
    values[:, 30:33] = 0
    expected = values.copy()
    expected[:, 30:33] = 128
    return write_scene(tmp_path / "striped.tif", values, nodata=0), values, expected


@pytest.fixture
def tiny_bundle(tmp_path: Path) -> Callable[..., Path]:
    """``tiny_bundle(name, **changes)``: a bundle for tiles of 32 with ``out = 0.5 image + 0.25 mask``.

    ``changes`` are of its manifest. The weights 0.5 and 0.25 lie in a file of their own.
    """
    onnx = pytest.importorskip("onnx")

    def make(
        name: str = "tiny.ecea",
        engines: tuple[str, ...] = ("fp32",),
        backends: Sequence[str] = ("openvino", "cpu"),
        **changes: Any,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        records = []
        for engine in engines:
            model = folder / f"generator.{engine}.onnx"
            _save_model(onnx, model)
            files = [model, model.with_suffix(".weights")]
            described = [
                {
                    "name": file.name,
                    "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                    "size": file.stat().st_size,
                }
                for file in files
            ]
            records.append({"engine": engine, "backends": [*backends], "files": described})
        manifest = {"schema": 1, "configuration": {"img_size": 32}, "engines": records, **changes}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return make


def _save_model(onnx: Any, path: Path) -> None:
    helper, numpy_helper = onnx.helper, onnx.numpy_helper

    def value(name: str, channels: int) -> Any:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["B", channels, 32, 32])

    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["image", "half"], ["darker"]),
            helper.make_node("Mul", ["mask", "quarter"], ["grey"]),
            helper.make_node("Add", ["darker", "grey"], ["out"]),
            helper.make_node("Identity", ["edge"], ["out_edge"]),
        ],
        "tiny",
        [value("image", 3), value("edge", 1), value("mask", 1)],
        [value("out", 3), value("out_edge", 1)],
        [
            numpy_helper.from_array(np.full((1, 3, 32, 32), 0.5, np.float32), "half"),
            numpy_helper.from_array(np.full((1, 1, 32, 32), 0.25, np.float32), "quarter"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path, save_as_external_data=True, location=path.with_suffix(".weights").name, size_threshold=0)


def stages() -> list[str]:
    """The names of the pipeline's threads that are alive."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(THREADS)]


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """No test of the runtime may leave a stage running."""
    yield
    deadline = time.monotonic() + 2
    while stages() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not stages()


@pytest.fixture(scope="session")
def recipe_of() -> Callable[..., Recipe]:
    """``recipe_of(grid, **changes)``: a recipe in which values in [0, 1] stand for themselves."""

    def make(grid: Any, **changes: Any) -> Recipe:
        fields = {
            "grid": grid,
            "stretch": Stretch(0, 1),
            "positions": [0, 1, 2],
            "every_tile": False,
            "alpha": None,
            "to_values": lambda unit, position: unit,
        }
        return Recipe(**(fields | changes))

    return make


@pytest.fixture(params=["graphs", "plain"])
def world(
    trt: ModuleType,
    libcuda: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Any:
    """A machine with a GPU (``gpu_world.World``), with and without bindings for CUDA graphs."""
    monkeypatch.setattr(nvidia, "_LIBRARY", str(libcuda()))
    made = importlib.import_module("gpu_world").World(trt, monkeypatch, tmp_path)
    return made.with_graphs() if request.param == "graphs" else made.without_graphs()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``$ECEA_CACHE``, which does not exist yet."""
    folder = tmp_path / "compiled"
    monkeypatch.setenv("ECEA_CACHE", str(folder))
    return folder
