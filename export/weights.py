"""Saving the forms of an engine beside one file of weights, in which equal tensors are stored once."""

import hashlib
from pathlib import Path

import onnx
import onnx_ir as ir

_ALIGNMENT = 4096  # bytes: page size, so that a runtime can map a tensor
IN_MODEL = 1024  # bytes: smaller tensors stay inside the model's own file


class SharedWeights:
    """An open file of weights that several models refer to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offsets: dict[tuple[bytes, int], int] = {}
        self._stream = path.open("xb")

    def save(self, model: ir.Model, path: Path) -> None:
        """Write a model beside the weights, its large tensors among them; the model given is changed.

        The result is checked with ONNX's checker.
        """
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.nbytes > IN_MODEL:
                value.const_value = self._external(tensor, str(value.name))
        ir.save(model, path)
        self._stream.flush()
        onnx.checker.check_model(path)

    def close(self) -> None:
        """Finish the file."""
        self._stream.close()

    def __enter__(self) -> "SharedWeights":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _external(self, tensor: ir.TensorProtocol, name: str) -> ir.ExternalTensor:
        data = tensor.tobytes()
        key = hashlib.sha256(data).digest(), len(data)
        if key not in self._offsets:
            self._stream.write(bytes(-self._stream.tell() % _ALIGNMENT))
            self._offsets[key] = self._stream.tell()
            self._stream.write(data)
        return ir.ExternalTensor(
            self.path.name,
            self._offsets[key],
            len(data),
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
            base_dir=self.path.parent,
        )
