"""A bundle as small as its weights: one file of FP16 weights, checkpoint and engine at once.

``ecea-export`` makes bundles fast: every engine has weights of its own, folded and rearranged for a backend. A compact
bundle is for shipping: its graphs are the traced generator as it is, and refer to the tensors of a ``.safetensors``
file that is a checkpoint like any other. :mod:`ecea.export.compact` is its command.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import InlinePass
from safetensors.torch import save
from torch import Tensor, nn

from ecea.export.checking import Checker
from ecea.export.exportable import load_exportable
from ecea.export.exporter import describe_bundle, describe_checkpoint, load_checkpoint
from ecea.export.folder import check_bundle, describe_file, whole_or_nothing, write_manifest
from ecea.export.forms import Form, finish
from ecea.export.parity import parity_tiles, reference, tile_sources
from ecea.export.precision import half_storage
from ecea.export.say import Say
from ecea.export.trace import trace
from ecea.export.weights import IN_MODEL
from ecea.runtime.bundle import Bundle, EngineRecord, read_bundle
from ecea.runtime.errors import RequestError

WEIGHTS = "generator.safetensors"

_BACKENDS = ("openvino", "cpu")
_DTYPES = {"F16": ir.DataType.FLOAT16, "F32": ir.DataType.FLOAT}


@dataclasses.dataclass(frozen=True)
class _Stored:
    """Where a tensor lies in the file of weights."""

    dtype: ir.DataType
    shape: tuple[int, ...]
    offset: int
    length: int


def export_compact(
    checkpoint: Path, destination: Path, *, num_heads: Sequence[int] | None = None, say: Say = lambda _: None
) -> Bundle:
    """Round a checkpoint's weights to FP16 and write them with graphs for processors, as a bundle.

    Args:
        checkpoint: the state dict of a generator, or of a U-Net, ``.pth`` or ``.safetensors``.
        destination: the bundle, ``NAME.ecea``.
        num_heads: attention heads at each level, where the checkpoint's widths do not tell.
        say: called with a line for each step.

    Returns:
        A bundle with the engines ``fp32`` and ``fp16``, both of the rounded weights: they differ in what they may
        compute in. Its ``generator.safetensors`` is a checkpoint.

    Raises:
        RequestError: where the checkpoint cannot be read or FP16 does not hold it, or the destination is wrong.
        EceaError: where an engine does not match PyTorch, or the file system refuses; no bundle is written.
    """
    check_bundle(destination, checkpoint)
    original, origin = load_checkpoint(checkpoint, num_heads, say), describe_checkpoint(checkpoint)
    stored = _rounded(checkpoint, original.network)
    with whole_or_nothing(destination) as folder:
        weights = folder / WEIGHTS
        # Not save_file, whose files only their owner may read.
        weights.write_bytes(save(stored))
        rounded = load_exportable(weights, original.configuration.get("num_heads"))
        network, tile_size = rounded.network, rounded.tile_size
        with tile_sources([], tile_size, {}) as sources:
            tiles = parity_tiles(sources)
        expected = reference(network, tiles)
        check = Checker(folder, network, tiles, expected, say)
        records = []
        model = trace(network, tile_size, fold=False)
        InlinePass()(model)
        half_storage(model)
        finish(model)
        refer_to(weights, model)
        for engine in ("fp32", "fp16"):
            form = Form(engine, _BACKENDS, _BACKENDS, lambda model: None)
            ir.save(model, folder / form.file_name)
            onnx.checker.check_model(folder / form.file_name)
            parity, arithmetic = check(form, None)
            files = (describe_file(folder / form.file_name), describe_file(weights))
            records.append(EngineRecord(engine, form.backends, files, parity, arithmetic))
        write_manifest(folder, describe_bundle(origin, rounded, tiles, records, None))
    return read_bundle(destination)


def refer_to(path: Path, model: ir.Model) -> None:
    """Replace the large initializers of a model by tensors of a ``.safetensors`` file, in place.

    They are found by their bytes, as they are or transposed: the exporter turns the matrices of linear layers.

    Raises:
        ValueError: where the file does not hold one of them.
    """
    known = _by_content(path)
    for value in list(model.graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= IN_MODEL:
            continue
        match = known.get(_key(tensor.numpy().tobytes(), tuple(tensor.shape.numpy())))
        if match is None:
            raise ValueError(f"{path}: does not hold '{value.name}', {tensor.shape} of {tensor.dtype}")
        stored, turned = match
        external = ir.ExternalTensor(
            path.name,
            stored.offset,
            stored.length,
            stored.dtype,
            shape=ir.Shape(stored.shape),
            name=str(value.name),
            base_dir=path.parent,
        )
        if turned:
            _turn(model.graph, value, external)
        else:
            value.const_value = external


def _turn(graph: ir.Graph, value: ir.Value, external: ir.ExternalTensor) -> None:
    """Let those who read a matrix read the transpose of one that is stored."""
    external.name = f"{value.name}.stored"
    stored = ir.Value(
        name=external.name, shape=external.shape, type=ir.TensorType(external.dtype), const_value=external
    )
    node = ir.node("Transpose", [stored], {"perm": [1, 0]}, name=f"{value.name}.turned")
    result = node.outputs[0]
    result.name, result.type, result.shape = node.name, value.type, value.shape
    for reader, index in list(value.uses()):
        reader.replace_input_with(index, result)
    graph.initializers.pop(str(value.name))
    graph.initializers.add(stored)
    graph.insert_before(graph[0], node)


def _rounded(checkpoint: Path, network: nn.Module) -> dict[str, Tensor]:
    """Its tensors, FP16 where that saves anything: vectors (norms, biases) are small, and exact as they are.

    Raises:
        RequestError: where FP16 does not hold one of them.
    """
    rounded = {}
    for name, tensor in network.state_dict().items():
        halved = tensor.half() if tensor.is_floating_point() and tensor.ndim >= 2 else tensor
        if not bool(halved.isfinite().all()):
            raise RequestError(
                f"{checkpoint}: '{name}' reaches {float(tensor.abs().max()):.6g}, expected at most 65504, which FP16 "
                "holds: export it with 'ecea-export CHECKPOINT --engine fp32'"
            )
        rounded[name] = halved.contiguous()
    return rounded


def _by_content(path: Path) -> dict[tuple[bytes, tuple[int, ...]], tuple[_Stored, bool]]:
    """The tensors of a ``.safetensors`` file, by bytes and shape; matrices also by those of their transpose."""
    raw = path.read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    found: dict[tuple[bytes, tuple[int, ...]], tuple[_Stored, bool]] = {}
    for name, entry in json.loads(raw[8:begin]).items():
        if name == "__metadata__" or entry["dtype"] not in _DTYPES:
            continue
        first, last = (begin + offset for offset in entry["data_offsets"])
        shape = tuple(entry["shape"])
        stored = _Stored(_DTYPES[entry["dtype"]], shape, first, last - first)
        data = raw[first:last]
        if len(shape) == 2:
            turned = torch.frombuffer(bytearray(data), dtype=torch.uint8).reshape(*shape, -1).transpose(0, 1)
            found.setdefault(_key(turned.contiguous().numpy().tobytes(), shape[::-1]), (stored, True))
        found[_key(data, shape)] = (stored, False)
    return found


def _key(data: bytes, shape: tuple[int, ...]) -> tuple[bytes, tuple[int, ...]]:
    return hashlib.sha256(data).digest(), shape
