"""What TensorRT does with a plugin while it builds a plan, in the order in which it does it, without TensorRT.

The plugin, its creator and its tensors are the genuine classes; the registry, the arithmetic of dimensions and the
receivers of the launch parameters, which libnvinfer has, are these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

Shape = tuple[int | str, ...]


class Registry:
    """Plugin creators by name, version and namespace."""

    def __init__(self) -> None:
        self.creators: dict[tuple[str, str, str], Any] = {}

    def register_creator(self, creator: Any, namespace: str = "") -> bool:
        return self.creators.setdefault((creator.name, creator.plugin_version, namespace), creator) is creator

    def get_creator(self, name: str, version: str, namespace: str = "") -> Any:
        return self.creators.get((name, version, namespace))


@dataclass(frozen=True)
class Built:
    """What a plugin gave for one tactic: numbers for the batch size that was asked for."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    extra_arguments: list[int]
    name: str
    code: str


class Host:
    """TensorRT's part of a build."""

    def __init__(self, trt: ModuleType) -> None:
        self.trt = trt
        self.registry = Registry()
        trt.get_plugin_registry = lambda: self.registry
        self.dimension = _dimension_class(trt)

    def create(self, name: str, namespace: str, **attributes: int | float | str) -> Any:
        """The plugin that the ONNX parser makes of a node with ``aot=1``, None if no such plugin is registered."""
        creator = self.registry.get_creator(name, "1", namespace)
        if creator is None:
            return None
        fields = self.trt.PluginFieldCollection([self._field(key, value) for key, value in attributes.items()])
        aot = self.trt.QuickPluginCreationRequest.STRICT_AOT
        return creator.create_plugin(name, namespace, fields, self.trt.TensorRTPhase.BUILD, aot)

    def _field(self, key: str, value: int | float | str) -> Any:
        kind, trt = self.trt.PluginFieldType, self.trt
        if isinstance(value, str):
            return trt.PluginField(key, value.encode(), kind.CHAR)
        if isinstance(value, float):
            return trt.PluginField(key, np.array([value], np.float32), kind.FLOAT32)
        return trt.PluginField(key, np.array([value], np.int32), kind.INT32)

    def build(self, plugin: Any, shapes: list[Shape], dtype: Any, batch: int) -> tuple[list[Any], dict[int, Built]]:
        """Ask a plugin for all that a build does.

        Args:
            plugin: with one output, shaped like its last input.
            shapes: of the inputs; a string is a dimension that is not known until the plan runs.
            dtype: of all inputs.
            batch: what the unknown dimensions are in the launch parameters that come back.

        Returns:
            The types of inputs and output that the plugin chose, and what it gave for each of its tactics.
        """
        trt = self.trt
        dimensions = [[self.dimension.of(size) for size in shape] for shape in shapes]
        output_types = plugin.get_output_data_types([dtype] * len(shapes), [len(shape) for shape in shapes])
        with _plain_dimensions(trt):
            (output,) = plugin.get_output_shapes(dimensions, [], self)
        assert [size.value({"B": batch}) for size in output] == [batch if s == "B" else s for s in shapes[-1]]
        tensors = [self._tensor(shape, dtype) for shape in shapes] + [self._tensor(shapes[-1], output_types[0])]
        combinations = plugin.get_supported_format_combinations(tensors, len(shapes))
        assert len(combinations) == len(tensors), "one combination of types: the network's"
        assert all(one.format == trt.TensorFormat.LINEAR for one in combinations)
        plugin.configure_plugin(tensors[:-1], tensors[-1:])
        built = {}
        for tactic in plugin.get_valid_tactics():
            plugin.set_tactic(tactic)
            launch, extra = SimpleNamespace(), _Expressions()
            with _readable_expressions():
                plugin.get_launch_params(dimensions, tensors, len(shapes), launch, extra, self)
            name, code = plugin.get_kernel([t.desc for t in tensors[:-1]], [t.desc for t in tensors[-1:]])
            known = {key: expression.dimension.value({"B": batch}) for key, expression in vars(launch).items()}
            built[tactic] = Built(
                grid=(known["grid_x"], known["grid_y"], known["grid_z"]),
                block=(known["block_x"], known["block_y"], known["block_z"]),
                shared_bytes=known["shared_mem"],
                extra_arguments=[expression.dimension.value({"B": batch}) for expression in extra],
                name=name,
                code=code.decode(),
            )
        return [one.type for one in combinations], built

    def constant(self, value: int) -> Any:
        return self.dimension.of(value)

    def operation(self, operation: Any, a: Any, b: Any) -> Any:
        return self.dimension.combined(operation, a, b)

    def _tensor(self, shape: Shape, dtype: Any) -> Any:
        tensor, described = self.trt.DynamicPluginTensorDesc(), self.trt.PluginTensorDesc()
        described.dims = tuple(-1 if isinstance(size, str) else size for size in shape)
        described.type, described.format, described.scale = dtype, self.trt.TensorFormat.LINEAR, -1.0
        tensor.desc = described
        for name, unknown in (("min", 1), ("opt", 4), ("max", 8)):
            setattr(tensor, name, tuple(unknown if isinstance(size, str) else size for size in shape))
        return tensor


class _Expressions(list[Any]):
    """Receives the extra arguments: their number first, as an attribute."""

    def __setattr__(self, name: str, value: int) -> None:
        assert name == "nbSymExprs"
        self[:] = [None] * value


def _dimension_class(trt: ModuleType) -> Any:
    operation = trt.DimensionOperation
    arithmetic: dict[Any, Callable[[int, int], int]] = {
        operation.SUM: lambda a, b: a + b,
        operation.PROD: lambda a, b: a * b,
        operation.SUB: lambda a, b: a - b,
        operation.FLOOR_DIV: lambda a, b: a // b,
        operation.CEIL_DIV: lambda a, b: -(-a // b),
    }

    class Dimension(trt.IDimensionExpr):  # type: ignore[misc, name-defined]
        """A dimension, or what is computed of some. The genuine class cannot be constructed, hence ``__new__``."""

        @classmethod
        def of(cls, size: int | str) -> Any:
            self = cls.__new__(cls)
            self.value = (lambda known: known[size]) if isinstance(size, str) else (lambda known: size)
            self.known = isinstance(size, int)
            return self

        @classmethod
        def combined(cls, kind: Any, a: Any, b: Any) -> Any:
            self = cls.__new__(cls)
            self.value = lambda known: arithmetic[kind](a.value(known), b.value(known))
            self.known = a.known and b.known
            return self

        def is_constant(self) -> bool:
            return bool(self.known)

        def is_size_tensor(self) -> bool:
            return False

        def get_constant_value(self) -> int:
            return int(self.value({}))

    return Dimension


@contextmanager
def _plain_dimensions(trt: ModuleType) -> Iterator[None]:
    """Lists for ``DimsExprs``, which takes nothing but what libnvinfer made."""
    genuine = trt.DimsExprs
    trt.DimsExprs = lambda size: [None] * size
    try:
        yield
    finally:
        trt.DimsExprs = genuine


@contextmanager
def _readable_expressions() -> Iterator[None]:
    """Let the expressions that a plugin hands over tell what they were made of."""
    import tensorrt.plugin._tensor as tensor

    genuine = tensor.SymExprImpl

    class Readable(genuine):  # type: ignore[misc, valid-type]
        def __init__(self, expression: Any) -> None:
            super().__init__(expression)
            self.dimension = expression._expr

    tensor.SymExprImpl = Readable
    try:
        yield
    finally:
        tensor.SymExprImpl = genuine
