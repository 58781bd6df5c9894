"""The INT8 engine: as many layers quantized as the accuracy asked for allows, for each form on its own."""

import dataclasses
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ecea.calibration import UNSIGNED, LayerError, Quantizer, Style, search
from ecea.calibration.quantizer import layer_nodes
from ecea.calibration.sensitivity import measure, missing_error, switchable
from ecea.calibration.tiles import Calibration
from ecea.export.folder import in_temporary_folder
from ecea.export.forms import Built, Form, build, finish, forms
from ecea.export.parity import Tiles, decibels
from ecea.export.passes import QUANTIZED, optimize
from ecea.export.say import Say
from ecea.export.weights import SharedWeights
from ecea.runtime.backends import BACKENDS, Session, Settings
from ecea.runtime.engine import usable_processors
from ecea.runtime.errors import BackendUnavailable
from ecea.runtime.words import counted

DEFAULT_TARGET_DB = 45.0

# Tiles that each layer is run on alone. What is chosen by it is measured on all others.
_SENSITIVITY_TILES = 1


class Int8Builder:
    """Builds the forms of the INT8 engine.

    Args:
        optimized: the FP32 model; stays as it is.
        calibration: tiles for the ranges of activations.
        tiles: other tiles, to measure the accuracy on.
        expected: what PyTorch makes of these, (B, 3, S, S).
        target_db: the accuracy to reach, over missing pixels.
        say: called with a line for each step.
    """

    def __init__(
        self,
        optimized: ir.Model,
        calibration: Calibration,
        tiles: Tiles,
        expected: np.ndarray,
        target_db: float,
        say: Say,
    ) -> None:
        self._base = optimized.clone()
        optimize(self._base, QUANTIZED)
        finish(self._base)
        self._calibration = calibration
        self._tiles = tiles
        self._expected = expected
        self._target_db = target_db
        self._say = say
        self._temporary = tempfile.TemporaryDirectory(prefix="ecea-int8-")
        self._folder = Path(self._temporary.name)
        with in_temporary_folder("INT8"):
            self._quantizer = Quantizer(self._base, calibration.feeds)
        self._layers: tuple[LayerError, ...] | None = None

    def build(self) -> Iterator[Built]:
        """Yield the forms of the engine; a layer that one form had to spare is spared in the next from the start."""
        spared: tuple[str, ...] = ()
        for form in forms("int8"):
            with in_temporary_folder("INT8"):
                spared, reached = self._search(form, spared)
                names = [name for name in self._quantizer.layers if name not in spared]
                model = build(form, self._quantizer.quantize(_style(form), names))
            yield Built(form, model, self._describe(form, spared, reached))

    def close(self) -> None:
        """Delete the temporary files."""
        self._quantizer.close()
        self._temporary.cleanup()

    def __enter__(self) -> "Int8Builder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _search(self, form: Form, start: Sequence[str]) -> tuple[tuple[str, ...], float]:
        """The layers that this form leaves in floating point, and the accuracy that it has then."""

        def measured(spared: Collection[str]) -> float:
            error = self._error(form, spared)
            count = len(self._quantizer.layers)
            self._say(
                f"int8        {form.file_name}: {decibels(error):.1f} dB with {count - len(spared)} of "
                f"{counted(count, 'layer')} quantized"
            )
            return error

        target = 10 ** (-self._target_db / 10)
        error = measured(start)
        if error <= target:
            return tuple(start), decibels(error)
        spared, error = search(self._sensitivity(), target, measured, tuple(start), error)
        return spared, decibels(error)

    def _error(self, form: Form, spared: Collection[str]) -> float:
        names = [name for name in self._quantizer.layers if name not in spared]
        path = self._folder / "tried.onnx"
        weights = self._folder / "tried.weights"
        with SharedWeights(weights) as shared:
            shared.save(build(form, self._quantizer.quantize(_style(form), names)), path)
        session = _load(form, path)
        count = len(self._tiles.image)
        outs = [session.infer(*self._tiles.one(i))[0] for i in range(count)]
        session.close()
        weights.unlink()
        feeds = [{"mask": self._tiles.one(i)[2]} for i in range(count)]
        return missing_error([out - self._expected[i : i + 1] for i, out in enumerate(outs)], feeds)

    def _sensitivity(self) -> tuple[LayerError, ...]:
        """What each layer costs; measured once."""
        if self._layers is None:
            nodes = layer_nodes(self._base)
            model = switchable(self._quantizer.quantize(UNSIGNED, self._quantizer.layers), self._base)
            path = self._folder / "switchable.onnx"
            ir.save(model, path, external_data="switchable.weights")
            feeds = self._calibration.feeds[:_SENSITIVITY_TILES]
            self._say(f"int8        measuring {counted(len(nodes), 'layer')} one by one")
            errors = measure(str(path), len(nodes), feeds)
            path.with_suffix(".weights").unlink()
            self._layers = tuple(_layer(node, error) for node, error in zip(nodes, errors, strict=True))
        return self._layers

    def _describe(self, form: Form, spared: Sequence[str], reached: float) -> dict[str, Any]:
        errors = {layer.name: layer.error for layer in self._layers or ()}
        layers = []
        for node in layer_nodes(self._base):
            layer = dataclasses.asdict(_layer(node, errors.get(str(node.name))))
            del layer["error"]
            layer["alone_db"] = round(decibels(errors[layer["name"]]), 1) if errors else None
            layers.append({**layer, "precision": "float" if layer["name"] in spared else "int8"})
        return {
            "style": _style(form).name,
            "target_db": self._target_db,
            "reached_db": at_least(reached),
            "layers": layers,
        }


def at_least(decibels: float) -> float:
    """Two digits, never rounded up: what falls short of a target by little does not reach it."""
    return float(np.floor(100 * decibels) / 100)


def _layer(node: ir.Node, error: float | None) -> LayerError:
    weights, result = node.inputs[1], node.outputs[0]
    assert weights is not None
    assert weights.shape is not None
    shape = weights.shape.numpy()
    inner = shape[0] if node.op_type == "MatMul" else int(np.prod(shape[1:]))
    elements = [size for size in (result.shape or ()) if isinstance(size, int)]
    return LayerError(
        str(node.name), node.op_type, str(weights.name), inner * int(np.prod(elements)), error if error else 0.0
    )


def _style(form: Form) -> Style:
    if form.style is None:
        raise ValueError(f"{form.file_name} is not quantized")
    return form.style


def _load(form: Form, path: Path) -> Session:
    """Load a model on the backend that it is for; where that is not here, ONNX Runtime computes the same."""
    settings = Settings(usable_processors())
    try:
        return BACKENDS[form.checked_on[0]].load(path, settings)
    except BackendUnavailable:
        return BACKENDS["cpu"].load(path, settings)
