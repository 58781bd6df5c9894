"""One model with a switch for each layer: what each costs is what quantizing it alone costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from ecea.calibration import UNSIGNED, Quantizer
from ecea.calibration.sensitivity import measure, missing_error, switchable

Tensor = NDArray[np.float32]
Run = Callable[[ir.Model, Mapping[str, Any]], list[Tensor]]


@pytest.fixture(scope="module")
def switched(quantizer: Quantizer, network: ir.Model) -> ir.Model:
    return switchable(quantizer.quantize(UNSIGNED, quantizer.layers), network)


def test_with_all_switches_off_it_is_the_original(
    switched: ir.Model, network: ir.Model, feeds: Sequence[Any], run: Run
) -> None:
    off = np.zeros(6, np.bool_)
    for feed in feeds:
        for got, exact in zip(run(switched, {**feed, "switches": off}), run(network, feed), strict=True):
            np.testing.assert_allclose(got, exact, rtol=0, atol=1e-5)


def test_with_all_switches_on_it_is_the_quantized_model(
    switched: ir.Model, quantizer: Quantizer, feeds: Sequence[Any], run: Run
) -> None:
    quantized, on = quantizer.quantize(UNSIGNED, quantizer.layers), np.ones(6, np.bool_)
    for feed in feeds:
        for got, wanted in zip(run(switched, {**feed, "switches": on}), run(quantized, feed), strict=True):
            # A value on the edge of two steps may fall to either side: compared on average.
            assert np.abs(got - wanted).mean() < 1e-4


def test_a_layer_is_measured_as_if_it_alone_were_quantized(
    switched: ir.Model, quantizer: Quantizer, network: ir.Model, feeds: Sequence[Any], run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "switchable.onnx"
    ir.save(switched.clone(), path)
    errors = measure(str(path), len(quantizer.layers), feeds[:3])
    assert len(errors) == len(quantizer.layers)
    exact = [run(network, feed)[0] for feed in feeds[:3]]
    for layer, error in zip(quantizer.layers, errors, strict=True):
        alone = quantizer.quantize(UNSIGNED, [layer])
        squares = [
            (run(alone, feed)[0] - out)[np.broadcast_to(feed["mask"] == 1, out.shape)].astype(np.float64) ** 2
            for feed, out in zip(feeds[:3], exact, strict=True)
        ]
        assert error == pytest.approx(np.concatenate(squares).mean(), rel=0.02, abs=1e-12), layer
    by_name = dict(zip(quantizer.layers, errors, strict=True))
    assert by_name.pop("edges") == 0  # ``out`` does not depend on it
    assert min(by_name.values()) > 0


def test_only_missing_pixels_count() -> None:
    mask = np.zeros((2, 1, 4, 4), np.float32)
    mask[0, 0, 1, 2] = mask[1, 0, 3, 3] = 1
    difference = np.full((2, 3, 4, 4), 100, np.float32)
    difference[0, :, 1, 2] = (0.1, 0.2, 0.3)
    difference[1, :, 3, 3] = (0, 0, -0.4)
    assert missing_error([difference], [{"mask": mask}]) == pytest.approx((0.01 + 0.04 + 0.09 + 0.16) / 6)


def test_every_missing_pixel_counts_the_same() -> None:
    """Not every tile: a tile with a wide gap weighs more."""
    wide, narrow = np.ones((1, 1, 2, 2), np.float32), np.zeros((1, 1, 2, 2), np.float32)
    narrow[0, 0, 0, 0] = 1
    differences = [np.full((1, 3, 2, 2), value, np.float32) for value in (0.1, 1)]
    error = missing_error(differences, [{"mask": wide}, {"mask": narrow}])
    assert error == pytest.approx((4 * 0.01 + 1 * 1) / 5)


def test_a_model_that_lacks_a_pair_cannot_be_switched(quantizer: Quantizer, network: ir.Model) -> None:
    with pytest.raises(ValueError, match="does not come from DequantizeLinear"):
        switchable(quantizer.quantize(UNSIGNED, ["query"]), network)
