"""Which layers to leave in floating point, so that the error stays within bounds at the least cost in time."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

# How many choices are measured at most, and how much less error each allows itself than the one before.
_ROUNDS = 6
_SAFETY = 0.8


@dataclass(frozen=True)
class LayerError:
    """What is known of a layer.

    Attributes:
        name: of its node.
        operator: ``Conv`` or ``MatMul``.
        weights: the name of its weights.
        products: multiplications for a tile: what quantizing it saves time on.
        error: mean squared error, on a range of 1, that quantizing it alone brings.
    """

    name: str
    operator: str
    weights: str
    products: int
    error: float


def keep(layers: Sequence[LayerError], budget: float) -> tuple[str, ...]:
    """Choose layers to leave in floating point so that the errors of the others add up to at most ``budget``.

    Errors of single layers are small and independent, so their squares add. First those go that bring the most error
    for each product; then those come back that the budget has room for, the most expensive first.
    """
    kept: list[LayerError] = []
    for layer in sorted(layers, key=lambda layer: layer.error / layer.products, reverse=True):
        if _error_without(layers, kept) <= budget:
            break
        kept.append(layer)
    for layer in sorted(kept, key=lambda layer: layer.products, reverse=True):
        fewer = [other for other in kept if other is not layer]
        if _error_without(layers, fewer) <= budget:
            kept = fewer
    names = {layer.name for layer in kept}
    return tuple(layer.name for layer in layers if layer.name in names)


def _error_without(layers: Sequence[LayerError], kept: Sequence[LayerError]) -> float:
    """The error of all layers but those kept, summed without rounding: nothing of what was taken away is left in it."""
    names = {layer.name for layer in kept}
    return math.fsum(layer.error for layer in layers if layer.name not in names)


def search(
    layers: Sequence[LayerError],
    target: float,
    measured: Callable[[Collection[str]], float],
    start: tuple[str, ...],
    error: float,
) -> tuple[tuple[str, ...], float]:
    """Find the layers to leave in floating point, measuring each choice.

    Args:
        layers: all that could be quantized.
        target: the mean squared error that is allowed.
        measured: the error of a model in which the layers named are in floating point.
        start: a choice that is not within the target.
        error: the error that was measured of it.

    Returns:
        The layers of the first choice that is within the target, and its error; where none is, of the best.
    """
    tried = {start: error}
    # What the errors measured one by one say of a choice, against what came of it, corrects them for the next.
    expected = sum(layer.error for layer in layers if layer.name not in start)
    budget = target * expected / error
    # One layer has to stay quantized.
    least = min(layer.error for layer in layers)
    most = keep(layers, least)
    choice = start
    while tried[choice] > target and len(tried) < _ROUNDS and choice != most:
        budget *= _SAFETY * min(1.0, target / tried[choice]) if len(tried) > 1 else _SAFETY
        choice = keep(layers, max(budget, least))
        if choice not in tried:
            tried[choice] = measured(choice)
    best = min(tried, key=lambda choice: tried[choice])
    return best, tried[best]
