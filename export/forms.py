"""The forms in which a bundle holds each engine: one ONNX file for each kind of backend."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, InlinePass, NameFixPass, ShapeInferencePass

from ecea.calibration import CHAINED, SYMMETRIC, UNSIGNED, Style
from ecea.export.attention_function import address_plugin
from ecea.export.passes import FLOATING, FOR_BACKEND, FOR_BACKEND_QUANTIZED, optimize
from ecea.export.precision import half_between_pairs, half_compute, half_storage


@dataclass(frozen=True)
class Form:
    """One file of an engine.

    Attributes:
        engine: the precision.
        backends: what the file is for.
        checked_on: the backends that it is run on, where they load, before the bundle exists. Which did, the record's
            parity tells: a bundle may be for a GPU that the machine which exports it has not.
        tune: what is done to the optimized model, or for ``int8`` to the quantized one, in place.
        style: how it is quantized; None for the other engines.
    """

    engine: str
    backends: tuple[str, ...]
    checked_on: tuple[str, ...]
    tune: Callable[[ir.Model], None]
    style: Style | None = None

    @property
    def file_name(self) -> str:
        """``generator.ENGINE.BACKEND.onnx`` for one backend's own, ``generator.ENGINE.onnx`` for GPUs or several."""
        own = "" if "tensorrt" in self.backends or len(self.backends) > 1 else f".{self.backends[0]}"
        return f"generator.{self.engine}{own}.onnx"


@dataclass(frozen=True)
class Built:
    """A form that is ready to be saved.

    Attributes:
        form: which one.
        model: the model.
        record: how it was quantized, for the manifest; None where it was not.
    """

    form: Form
    model: ir.Model
    record: dict[str, Any] | None = None


def forms(engine: str) -> tuple[Form, ...]:
    """The forms of one engine, ``fp32``, ``fp16`` or ``int8``.

    The form for GPUs keeps attention as one node, for TensorRT, which has a kernel for it. ONNX Runtime inlines the
    node's body: on its CPU provider the form is checked on any machine, on its CUDA provider where that loads. That
    one has no integer kernels, so its users are not given ``int8``. What TensorRT makes of the form is checked as a
    plan (:mod:`ecea.export.plans`).
    """
    if engine == "int8":
        return (
            Form(engine, ("openvino",), ("openvino",), _quantized("openvino"), UNSIGNED),
            Form(engine, ("cpu",), ("cpu",), _quantized("cpu"), CHAINED),
            Form(engine, ("tensorrt",), ("cpu",), _quantized_for_gpu, SYMMETRIC),
        )
    half = engine == "fp16"
    return (
        Form(engine, ("tensorrt", "cuda"), ("cpu", "cuda"), _for_gpu(half)),
        Form(engine, ("openvino",), ("openvino",), _for_backend("openvino", half)),
        Form(engine, ("cpu",), ("cpu",), _for_backend("cpu", half)),
    )


def build(form: Form, source: ir.Model) -> ir.Model:
    """Derive the model of a form from the optimized or quantized model, which stays as it is."""
    model = source.clone()
    form.tune(model)
    finish(model)
    return model


def finish(model: ir.Model) -> None:
    """Infer shapes, make names unique and drop what only the exporter's developers read, in place."""
    for step in (ShapeInferencePass(), NameFixPass(), ClearMetadataAndDocStringPass()):
        step(model)


def _quantized(backend: str) -> Callable[[ir.Model], None]:
    def tune(model: ir.Model) -> None:
        optimize(model, FOR_BACKEND_QUANTIZED[backend])
        InlinePass()(model)

    return tune


def _quantized_for_gpu(model: ir.Model) -> None:
    half_between_pairs(model)
    address_plugin(model)


def _for_gpu(half: bool) -> Callable[[ir.Model], None]:
    def tune(model: ir.Model) -> None:
        optimize(model, FLOATING)
        if half:
            half_compute(model)
        address_plugin(model)

    return tune


def _for_backend(backend: str, half: bool) -> Callable[[ir.Model], None]:
    def tune(model: ir.Model) -> None:
        optimize(model, (*FLOATING, *FOR_BACKEND[backend]))
        InlinePass()(model)
        if half:
            half_storage(model)

    return tune
