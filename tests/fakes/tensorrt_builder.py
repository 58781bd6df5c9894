"""TensorRT's builder and parser: fakes of the genuine classes that do, for a build, what the library does.

The parser takes a node for a plugin where one of its name is registered, and its function body elsewhere; the builder
asks the plugins for all that a build asks, swallows what they raise, and makes a plan that ``tensorrt_runtime`` runs
and that tells the layers' types as they stand in the ONNX file.
"""

from __future__ import annotations

import importlib
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
import pycuda_fake
import tensorrt_runtime
from onnx import TensorProto
from tensorrt_contract import check_call, fake
from tensorrt_host import Host

from ecea.export.plans import machine as machine_module
from ecea.kernels import plugin
from ecea.runtime.backends.cuda_device import Device

GPU = machine_module.Gpu("NVIDIA H100 80GB HBM3", "9.0", "580.95.05")
FREE = 60 << 30
NEEDED = 128 << 20  # bytes, of any build

NO_KERNEL = "could not find any implementation for node"

TYPE_NAMES = {TensorProto.FLOAT: "Float", TensorProto.FLOAT16: "Half", TensorProto.INT8: "Int8"}


class HostMemory(bytes):
    """Bytes that TensorRT has made."""


class World:
    """One process with TensorRT and a GPU, made of numpy, that plans can be built for and run on.

    Attributes:
        trt: the module ``tensorrt``, with builder, parser and runtime faked.
        genuine: those three as they were.
        gpu: its driver (``pycuda_fake``).
        machine: to build on.
        parsed: the ONNX models that the parser was given.
        configs: the builder's configurations.
        changes: of the next plans, as ``tensorrt_runtime`` understands them; a function is asked with the network.
        seconds: that a build takes by the GPU's clock which finds no timings of an earlier one.
        refuses: whether the builder finds no kernels for a network.
        fail: what goes wrong: ``parse``, ``memory``, ``load``, ``types``, ``body`` (the parser overlooks the plugin),
            ``fuse`` (plugins vanish from the plan), ``timings`` (none is taken), ``swallow`` (a plan in spite of a
            plugin's failure), ``slow`` (timings save nothing), ``interrupt`` (the user's, while something is logged),
            ``skip`` (one kernel does, for which there are others), ``kernels`` (all of one node).
    """

    def __init__(self, trt: ModuleType, monkeypatch: Any) -> None:
        self.trt: Any = trt
        self.genuine = SimpleNamespace(Builder=trt.Builder, OnnxParser=trt.OnnxParser, Runtime=trt.Runtime)
        self._forget_plugins()
        self.host = Host(trt)
        self.fail: set[str] = set()
        self.changes: dict[str, Any] = {}
        self.seconds = 0.0
        self.refuses: Callable[[Any], bool] = lambda network: False
        self.parsed: list[onnx.ModelProto] = []
        self.configs: list[Any] = []
        self.flags: list[int] = []
        self.gpu = pycuda_fake.Gpu(GPU.name)
        self.gpu.free = FREE
        pycuda_fake.install(self.gpu, monkeypatch)
        tensorrt_runtime.install(trt, self.gpu, monkeypatch)
        monkeypatch.setattr(trt, "Builder", self._builder)
        monkeypatch.setattr(trt, "OnnxParser", self._parser)
        monkeypatch.setattr(trt, "__version__", "11.4.0.106")
        self.machine = machine_module.Machine(trt, GPU, Device())

    def _forget_plugins(self) -> None:
        library = importlib.import_module("tensorrt.plugin._lib")
        for registered in (library.QDP_CREATORS, library.QDP_REGISTRY):
            registered.clear()
        vars(library.op).pop("ecea", None)
        plugin.register.cache_clear()

    # The builder

    def _builder(self, logger: Any) -> Any:
        check_call(self.genuine.Builder.__init__, (logger,), {})

        def create_network(flags: int = 0) -> Any:
            self.flags.append(flags)
            network = fake(self.trt.INetworkDefinition, num_layers=0, get_layer=None)
            vars(network)["plugins"] = []
            return network

        builder = fake(
            self.genuine.Builder,
            error_recorder=None,
            create_network=create_network,
            create_builder_config=self._config,
            build_serialized_network=lambda network, config: self._build(builder, network, config),
        )
        return builder

    def _config(self) -> Any:
        def attach(cache: Any, ignore_mismatch: bool) -> bool:
            if "timings" in self.fail or cache.serialize() == b"of another machine":
                return False
            implementation.get_timing_cache = lambda: cache
            return True

        def create(stored: bytes) -> Any:
            return fake(self.trt.ITimingCache, serialize=lambda: HostMemory(stored))

        limits: dict[Any, int] = {}
        flags = {self.trt.BuilderFlag.TF32}
        config = fake(
            self.trt.IBuilderConfig,
            create_timing_cache=create,
            set_timing_cache=attach,
            set_memory_pool_limit=lambda pool, pool_size: limits.update({pool.name: pool_size}),
            clear_flag=flags.discard,
            set_flag=flags.add,
        )
        implementation = vars(config)["_implementation"]
        vars(config).update(limits=limits, flags_set=flags)
        self.configs.append(config)
        return config

    def _build(self, builder: Any, network: Any, config: Any) -> Any:
        recorder, codes = builder.error_recorder, self.trt.ErrorCodeTRT
        if "interrupt" in self.fail:
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        if "memory" in self.fail or self.gpu.free < NEEDED:
            recorder.report_error(codes.FAILED_ALLOCATION, "Requested amount of GPU memory could not be allocated")
            return None
        if "skip" in self.fail:
            recorder.report_error(codes.UNSPECIFIED_ERROR, "Skipping tactic 3 due to exception out of memory")
        if "kernels" in self.fail or self.refuses(network):
            recorder.report_error(codes.UNSPECIFIED_ERROR, NO_KERNEL)
            return None
        for made, shapes in network.plugins:
            try:
                self.host.build(made, shapes, self.trt.DataType.HALF, shapes[0][0])
            except Exception:  # as TensorRT does: it tells that something failed, not what
                recorder.report_error(codes.UNSPECIFIED_ERROR, NO_KERNEL)
                if "swallow" not in self.fail:
                    return None
        cache = config.get_timing_cache()
        if not cache.serialize() or "slow" in self.fail:
            self.gpu.clock += self.seconds
        timings = bytes(cache.serialize()) + b"+"
        vars(cache)["_implementation"].serialize = lambda: HostMemory(timings)
        if "load" in self.fail:
            return HostMemory(b"no plan")
        batch, _, size, _ = network.image
        changes = {name: made(network) if callable(made) else made for name, made in self.changes.items()}
        return HostMemory(tensorrt_runtime.plan_bytes(batch, size, Layers=network.layers, **changes))

    # The parser

    def _parser(self, network: Any, logger: Any) -> Any:
        check_call(self.genuine.OnnxParser.__init__, (network, logger), {})
        error = fake(
            self.trt.ParserError,
            node_name=lambda: "node_Conv_7",
            node_operator=lambda: "Conv",
            desc=lambda: "kernel weights must be constant",
        )
        return fake(
            self.genuine.OnnxParser,
            parse=lambda model, path=None: self._parse(network, model, path),
            num_errors=1,
            get_error=lambda index: error,
        )

    def _parse(self, network: Any, data: bytes, path: str | None) -> bool:
        model = onnx.load_model_from_string(data)
        assert path is not None
        assert Path(path).with_suffix(".weights").exists(), "the weights are looked for beside the path"
        self.parsed.append(model)
        if "parse" in self.fail:
            return False
        shapes, types = _values(model)
        layers, kinds = [], []
        for node in model.graph.node:
            made = self._plugin(node) if "body" not in self.fail else None
            if made is not None:
                network.plugins.append((made, [shapes[name] for name in node.input]))
            shown = "PluginV3" if made is not None and "fuse" not in self.fail else node.op_type
            layers.append(self._layer(node, shown, types))
            kinds.append(self.trt.LayerType.PLUGIN_V3 if made is not None else self.trt.LayerType.CAST)
        vars(network).update(layers=layers, image=shapes["image"])
        implementation = vars(network)["_implementation"]
        implementation.num_layers = len(kinds)
        implementation.get_layer = lambda index: fake(self.trt.ILayer, type=kinds[index])
        return True

    def _plugin(self, node: onnx.NodeProto) -> Any:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        namespace = attributes.pop("plugin_namespace", b"").decode()
        version = attributes.pop("plugin_version", b"1").decode()
        if self.host.registry.get_creator(node.op_type, version, namespace) is None:
            return None
        assert attributes.pop("aot") == 1
        return self.host.create(node.op_type, namespace, **attributes)

    def _layer(self, node: onnx.NodeProto, shown: str, types: dict[str, int]) -> dict[str, Any]:
        def side(names: Any) -> list[dict[str, str]]:
            known = "Format/Datatype" if "types" not in self.fail else "Name"
            return [{"Name": name, known: TYPE_NAMES.get(types.get(name, 0), "Int64")} for name in names]

        return {"Name": node.name, "LayerType": shown, "Inputs": side(node.input), "Outputs": side(node.output)}


def _values(model: onnx.ModelProto) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Shapes and types of all values of a model."""
    graph = model.graph
    listed = {value.name: value.type.tensor_type for value in (*graph.input, *graph.value_info, *graph.output)}
    shapes = {name: tuple(size.dim_value for size in kind.shape.dim) for name, kind in listed.items()}
    types = {name: kind.elem_type for name, kind in listed.items()}
    return shapes, types | {tensor.name: tensor.data_type for tensor in graph.initializer}
