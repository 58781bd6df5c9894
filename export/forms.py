"""The forms in which a bundle holds each engine: one ONNX file for each kind of backend."""

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, InlinePass, NameFixPass, ShapeInferencePass

from ecea.export.attention_function import address_plugin
from ecea.export.passes import FOR_BACKEND, optimize
from ecea.export.precision import half_compute, half_storage


@dataclass(frozen=True)
class Form:
    """One file of an engine.

    Attributes:
        engine: the precision.
        backends: what the file is for.
        checked_on: the backends that it is run on, where they load, before the bundle exists.
        tune: what is done to the FP32 model, in place.
    """

    engine: str
    backends: tuple[str, ...]
    checked_on: tuple[str, ...]
    tune: Callable[[ir.Model], None]

    @property
    def file_name(self) -> str:
        """``generator.ENGINE.onnx`` for the general form, ``generator.ENGINE.BACKEND.onnx`` for one backend's own."""
        own = f".{self.backends[0]}" if len(self.backends) == 1 else ""
        return f"generator.{self.engine}{own}.onnx"


def forms(engine: str) -> tuple[Form, ...]:
    """The forms of one engine, ``fp32`` or ``fp16``.

    The general form keeps attention as one node, for backends with a kernel for it; it is checked on ONNX Runtime's
    CPU provider, which inlines the node's body.
    """
    half = engine == "fp16"
    return (
        Form(engine, ("tensorrt", "cuda"), ("cpu",), _for_gpu(half)),
        Form(engine, ("openvino",), ("openvino",), _for_backend("openvino", half)),
        Form(engine, ("cpu",), ("cpu",), _for_backend("cpu", half)),
    )


def build(form: Form, optimized: ir.Model) -> ir.Model:
    """Derive the model of a form from the optimized FP32 model, which stays as it is."""
    model = optimized.clone()
    form.tune(model)
    for finish in (ShapeInferencePass(), NameFixPass(), ClearMetadataAndDocStringPass()):
        finish(model)
    return model


def _for_gpu(half: bool) -> Callable[[ir.Model], None]:
    def tune(model: ir.Model) -> None:
        if half:
            half_compute(model)
        address_plugin(model)

    return tune


def _for_backend(backend: str, half: bool) -> Callable[[ir.Model], None]:
    def tune(model: ir.Model) -> None:
        optimize(model, FOR_BACKEND[backend])
        InlinePass()(model)
        if half:
            half_storage(model)

    return tune
