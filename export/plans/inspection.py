"""What is in a plan: TensorRT's engine inspector tells the type of each layer's tensors."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ecea.runtime.backends.tensorrt_library import Messages

# "Half", or in a sentence such as "Row major linear FP16 format": the wording changes between versions.
_HALF = re.compile(r"\b(half|fp16|bf16|bfloat16)\b", re.IGNORECASE)
_INT8 = re.compile(r"\bint8\b", re.IGNORECASE)


@dataclass(frozen=True)
class Inspection:
    """What a plan is made of.

    Attributes:
        layers: how many.
        half_layers: the share of them that give FP16 or BF16, 0 to 1.
        int8_layers: the share that take or give INT8.
        plugin_layers: how many are plugins.
        device_memory_bytes: what a context needs beside the weights.
    """

    layers: int
    half_layers: float
    int8_layers: float
    plugin_layers: int
    device_memory_bytes: int


def inspect_plan(trt: ModuleType, plan: Any, messages: Messages) -> Inspection:
    """Load a plan and look into it.

    Args:
        trt: the module ``tensorrt``.
        plan: its bytes.
        messages: told what goes wrong.

    Raises:
        ValueError: where TensorRT does not load it, or does not tell types.
    """
    runtime = trt.Runtime(messages.logger)
    runtime.error_recorder = messages.recorder
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise ValueError("TensorRT does not load what it has just built")
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return read_layers(text, int(engine.device_memory_size_v2))


def read_layers(information: str, device_memory_bytes: int = 0) -> Inspection:
    """Count what the inspector's JSON tells.

    Raises:
        ValueError: where it is none, or tells the types of no layer.
    """
    layers = json.loads(information).get("Layers", [])
    told = [layer for layer in layers if isinstance(layer, dict) and any(_types(layer, "Outputs"))]
    if not told:
        raise ValueError(f"the inspector tells the types of none of its {len(layers)} layers")
    half = sum(any(map(_HALF.search, _types(layer, "Outputs"))) for layer in told)
    int8 = sum(any(map(_INT8.search, (*_types(layer, "Inputs"), *_types(layer, "Outputs")))) for layer in told)
    plugins = sum("plugin" in str(layer.get("LayerType", "")).lower() for layer in told)
    return Inspection(len(told), half / len(told), int8 / len(told), plugins, device_memory_bytes)


def _types(layer: dict[str, Any], side: str) -> Iterator[str]:
    for tensor in layer.get(side, []):
        if isinstance(tensor, dict) and tensor.get("Format/Datatype"):
            yield str(tensor["Format/Datatype"])
