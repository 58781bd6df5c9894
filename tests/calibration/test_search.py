"""Which layers are spared: no more than has to be, and the search for them always comes to an end."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecea.calibration import LayerError, search
from ecea.calibration.search import keep

Measured = Callable[[Collection[str]], float]


def layer(name: str, error: float, products: int = 1) -> LayerError:
    return LayerError(name, "Conv", f"{name}.weight", products, error)


def left_error(layers: Collection[LayerError], spared: Collection[str]) -> float:
    """What the layers that stay quantized bring together."""
    return math.fsum(layer.error for layer in layers if layer.name not in spared)


# Many equal values, zeros and values far apart: what networks have.
ERRORS = st.one_of(st.sampled_from([0.0, 1e-7, 0.1, 0.2, 0.3, 1.0]), st.floats(0, 1, allow_subnormal=False))
LAYERS = st.lists(st.tuples(ERRORS, st.integers(1, 10**9)), min_size=1, max_size=12).map(
    lambda pairs: [layer(f"layer {i}", *pair) for i, pair in enumerate(pairs)]
)
BUDGETS = st.one_of(st.sampled_from([0.0, 0.1, 0.3, 0.6]), st.floats(0, 3))


@given(LAYERS, BUDGETS)
def test_what_stays_quantized_is_within_the_budget(layers: list[LayerError], budget: float) -> None:
    assert left_error(layers, keep(layers, budget)) <= budget


@given(LAYERS, BUDGETS)
def test_no_layer_is_spared_in_vain(layers: list[LayerError], budget: float) -> None:
    spared = keep(layers, budget)
    for name in spared:
        assert left_error(layers, set(spared) - {name}) > budget


@given(LAYERS, BUDGETS)
def test_the_order_of_the_model_is_kept(layers: list[LayerError], budget: float) -> None:
    spared = keep(layers, budget)
    assert list(spared) == [layer.name for layer in layers if layer.name in spared]


@given(LAYERS)
def test_without_a_budget_every_layer_that_errs_is_spared(layers: list[LayerError]) -> None:
    assert keep(layers, 0.0) == tuple(layer.name for layer in layers if layer.error > 0)


@given(LAYERS)
def test_nothing_is_spared_where_all_fit(layers: list[LayerError]) -> None:
    assert keep(layers, left_error(layers, ())) == ()


def test_the_layer_that_saves_least_for_its_error_is_spared() -> None:
    layers = [layer("costly", 0.5, 1000), layer("cheap", 0.5, 10), layer("good", 0.25, 1000)]
    assert keep(layers, 0.75) == ("cheap",)
    assert keep(layers, 0.25) == ("costly", "cheap")


def test_the_layer_that_saves_most_comes_back_first() -> None:
    layers = [layer("cheap", 0.3, 1), layer("costly", 0.3, 2), layer("wrong", 0.9, 10)]
    assert keep(layers, 0.35) == ("cheap", "wrong")


# The search


def additive(layers: Collection[LayerError], factor: float = 1.0) -> Measured:
    return lambda spared: factor * left_error(layers, spared)


def test_errors_that_add_up_as_expected_are_found_at_the_first_try() -> None:
    layers = [layer("a", 1e-3, 50), layer("b", 5e-3, 10), layer("c", 1e-4, 90)]
    tried: list[Collection[str]] = []

    def measured(spared: Collection[str]) -> float:
        tried.append(spared)
        return left_error(layers, spared)

    spared, error = search(layers, 2e-3, measured, (), left_error(layers, ()))
    assert spared == ("b",)
    assert error == pytest.approx(1.1e-3)
    assert tried == [("b",)]


def test_errors_that_add_up_to_more_are_corrected_for() -> None:
    """The whole is ten times as wrong as its layers say: measuring tells, and more layers are spared."""
    layers = [layer(f"layer {i}", 1e-4 * (i + 1)) for i in range(10)]
    spared, error = search(layers, 1e-3, additive(layers, 10), (), 10 * left_error(layers, ()))
    assert 0 < error <= 1e-3
    assert len(spared) < len(layers)


def test_a_choice_that_is_far_off_is_corrected_for_at_once() -> None:
    layers = [layer(f"layer {i}", 1e-5 * (i + 1)) for i in range(20)]
    _, error = search(
        layers, 1e-3, lambda spared: (50 if spared else 1) * left_error(layers, spared), (), left_error(layers, ())
    )
    assert error <= 1e-3


def test_a_target_that_only_the_best_layer_meets_is_met() -> None:
    layers = [layer("a", 0.5), layer("b", 0.09), layer("c", 0.3)]
    assert search(layers, 0.1, additive(layers), (), 0.89) == (("a", "c"), 0.09)


def test_the_best_is_returned_where_the_target_is_out_of_reach() -> None:
    layers = [layer(f"layer {i}", 0.1) for i in range(4)]
    spared, error = search(layers, 1e-9, lambda spared: left_error(layers, spared) + 0.05, (), 0.45)
    assert error == pytest.approx(0.15)
    assert len(spared) == 3


def test_sparing_layers_may_make_it_worse() -> None:
    layers = [layer(f"layer {i}", 0.1) for i in range(4)]
    assert search(layers, 1e-3, lambda spared: 1.0 + len(spared), (), 0.5) == ((), 0.5)


@pytest.mark.parametrize("errors", [(0.0, 0.0), (0.1, 0.0), (0.1, 0.2, 0.3, 0.0), (0.1,)])
@pytest.mark.timeout(20)
def test_layers_without_error_do_not_keep_it_busy_for_ever(errors: tuple[float, ...]) -> None:
    """As those of the edge map, which the filled pixels do not depend on."""
    layers = [layer(f"layer {i}", error) for i, error in enumerate(errors)]
    spared, error = search(layers, 1e-6, lambda spared: 1.0, (), 1.0)
    assert error == 1.0
    assert len(spared) < len(layers)


@given(LAYERS, st.floats(1e-10, 0.5), st.data())
@pytest.mark.timeout(60)
def test_whatever_is_measured_it_ends_no_worse_than_it_began(
    layers: list[LayerError], target: float, data: st.DataObject
) -> None:
    start = tuple(
        layer.name for layer in layers[1:] if data.draw(st.booleans(), label=f"{layer.name} is spared from the start")
    )
    begin = data.draw(st.floats(target, 10, exclude_min=True))
    seen: dict[tuple[str, ...], float] = {start: begin}

    def measured(spared: Collection[str]) -> float:
        assert tuple(spared) not in seen  # each takes a minute
        assert len(spared) < len(layers)  # a model with nothing quantized is no INT8 engine
        seen[tuple(spared)] = data.draw(st.floats(0, 10))
        return seen[tuple(spared)]

    spared, error = search(layers, target, measured, start, begin)
    assert seen[spared] == error == min(seen.values())
    assert len(seen) <= 6
