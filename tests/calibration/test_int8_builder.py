"""The INT8 engine of a network of a few layers: how its forms come to reach the accuracy that was asked for."""

from __future__ import annotations

import errno
import gc
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from ecea.calibration import Calibration
from ecea.export import int8
from ecea.export.forms import Built
from ecea.export.int8 import Int8Builder, at_least
from ecea.export.parity import Tiles
from ecea.runtime.errors import EceaError

pytest.importorskip("openvino")

LAYERS = ["first", "embed", "query", "mix", "last", "edges"]
OPERATORS = ["Conv", "Conv", "MatMul", "MatMul", "Conv", "Conv"]
# Multiplications: pixels (256) times inner channels times kernel times channels that come out.
PRODUCTS = [256 * 4 * 9 * 8, 256 * 8 * 9 * 8, 256 * 8 * 8, 256 * 8 * 8, 256 * 8 * 9 * 3, 256 * 8 * 9]


class Build:
    """What a builder made for a target, and what it said."""

    def __init__(self, builder: Int8Builder, said: list[str], expected: np.ndarray, tiles: Tiles) -> None:
        self.forms: list[Built] = list(builder.build())
        self.said, self.expected, self.tiles = said, expected, tiles

    def decibels(self, form: Built, run: Callable[..., Any]) -> float:
        """Measured again: over the missing pixels of all tiles."""
        missing = self.tiles.mask > 0
        squares = []
        for i, exact in enumerate(self.expected):
            inputs = dict(zip(("image", "edge", "mask"), self.tiles.one(i), strict=True))
            error = run(form.model, inputs)[0][0] - exact
            squares.append(np.square(error[np.broadcast_to(missing[i], error.shape)], dtype=np.float64))
        return float(-10 * np.log10(np.concatenate(squares).mean()))


@pytest.fixture(scope="module")
def build(
    network: ir.Model, feeds: Sequence[Any], run: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[float], Build]]:
    """``build(target_db)``; measured on four of the tiles, calibrated on the others.

    What is expected is off by some 70 dB, so that no choice of layers comes closer.
    """
    tiles = Tiles(*(np.concatenate([feed[name] for feed in feeds[2:]]) for name in ("image", "edge", "mask")), "test")
    expected = np.concatenate([run(network, feed)[0] for feed in feeds[2:]])
    expected += np.random.default_rng(0).choice(np.float32([-3e-4, 3e-4]), expected.shape)
    calibration = Calibration(tuple(feeds[:2]), (), 0)
    folder = tmp_path_factory.mktemp("builder")
    done: dict[float, Build] = {}

    def make(target_db: float) -> Build:
        if target_db not in done:
            said: list[str] = []
            with Int8Builder(network, calibration, tiles, expected, target_db, said.append) as builder:
                done[target_db] = Build(builder, said, expected, tiles)
        return done[target_db]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        yield make
        assert list(folder.iterdir()) == []  # whatever came of it


def precisions(form: Built) -> dict[str, str]:
    assert form.record is not None
    return {layer["name"]: layer["precision"] for layer in form.record["layers"]}


def quantized(form: Built) -> set[str]:
    """The layers whose weights are integers in the model itself."""
    nodes = {node.name: node for node in form.model.graph if node.name in LAYERS}
    assert set(nodes) == set(LAYERS)
    return {
        str(name)
        for name, node in nodes.items()
        if (producer := node.inputs[1].producer()) is not None and producer.op_type == "DequantizeLinear"  # type: ignore[union-attr]
    }


EASY, HARDER, IMPOSSIBLE = 20.0, 62.0, 100.0

every_target = pytest.mark.parametrize("target_db", [EASY, HARDER, IMPOSSIBLE])


@every_target
def test_the_record_says_what_the_models_are(
    target_db: float, build: Callable[[float], Build], run: Callable[..., Any]
) -> None:
    made = build(target_db)
    assert [form.form.file_name for form in made.forms] == [
        "generator.int8.openvino.onnx", "generator.int8.cpu.onnx", "generator.int8.onnx",
    ]  # fmt: skip
    for form, style in zip(made.forms, ("unsigned", "chained", "symmetric"), strict=True):
        assert form.record is not None
        assert (form.record["style"], form.record["target_db"]) == (style, target_db)
        assert [layer["name"] for layer in form.record["layers"]] == LAYERS
        assert [layer["operator"] for layer in form.record["layers"]] == OPERATORS
        assert [layer["products"] for layer in form.record["layers"]] == PRODUCTS
        assert {name for name, precision in precisions(form).items() if precision == "int8"} == quantized(form)
        assert set(precisions(form).values()) <= {"int8", "float"}
        # Two decimals; a value on the edge of two steps may fall to either side, as the backend rounds.
        assert form.record["reached_db"] == pytest.approx(made.decibels(form, run), abs=0.3)


def test_a_target_that_is_met_at_once_spares_nothing(build: Callable[[float], Build]) -> None:
    made = build(EASY)
    for form in made.forms:
        assert form.record is not None
        assert quantized(form) == set(LAYERS)
        assert form.record["reached_db"] >= EASY
        assert [layer["alone_db"] for layer in form.record["layers"]] == [None] * 6
    assert len(made.said) == 3  # one measurement for each form, and none of single layers


def test_a_higher_target_spares_some_layers(build: Callable[[float], Build]) -> None:
    made = build(HARDER)
    for form in made.forms:
        assert form.record is not None
        assert form.record["reached_db"] >= HARDER
        assert 0 < len(quantized(form)) < 6
        assert "edges" in quantized(form)  # costs nothing
        alone = {layer["name"]: layer["alone_db"] for layer in form.record["layers"]}
        assert alone["edges"] == 150
        assert 20 < min(alone.values()) < HARDER
    assert sum("layers one by one" in line for line in made.said) == 1


@pytest.mark.timeout(60)
def test_of_an_impossible_target_the_best_is_taken(build: Callable[[float], Build]) -> None:
    made, easy = build(IMPOSSIBLE), build(EASY)
    for form, at_once in zip(made.forms, easy.forms, strict=True):
        assert form.record is not None
        assert at_once.record is not None
        assert at_once.record["reached_db"] < form.record["reached_db"]
        assert quantized(form)


def test_the_models_given_stay_as_they_are(build: Callable[[float], Build], network: ir.Model) -> None:
    build(EASY)
    assert not {node.op_type for node in network.graph} & {"QuantizeLinear", "DequantizeLinear"}


def test_a_target_that_is_missed_by_little_is_missed() -> None:
    assert [at_least(decibels) for decibels in (44.996, 45.0, 45.019)] == [44.99, 45.0, 45.01]


def test_a_full_temporary_folder_is_named_and_nothing_is_left(
    network: ir.Model, feeds: Sequence[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the disk that the bundle goes to."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(int8, "Quantizer", full)
    tiles = Tiles(feeds[0]["image"], feeds[0]["edge"], feeds[0]["mask"], "test")
    said = re.escape(f"{tmp_path}: what INT8 needs meanwhile cannot be written there (No space left on device)")
    with pytest.raises(EceaError, match=said):
        Int8Builder(network, Calibration(tuple(feeds[:1]), (), 0), tiles, feeds[0]["image"], EASY, print)
    gc.collect()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, BrokenPipeError])
def test_nothing_is_left_of_a_build_that_fails(
    error: type[BaseException], network: ir.Model, feeds: Sequence[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tiles = Tiles(feeds[0]["image"], feeds[0]["edge"], feeds[0]["mask"], "test")
    calibration = Calibration(tuple(feeds[:1]), (), 0)

    def interrupted(line: str) -> None:
        raise error

    with (
        pytest.raises(error),
        Int8Builder(network, calibration, tiles, feeds[0]["image"], EASY, interrupted) as builder,
    ):
        list(builder.build())
    assert list(tmp_path.iterdir()) == []
