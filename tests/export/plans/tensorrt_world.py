"""TensorRT as our builder meets it: fakes of the genuine classes that do, for a build, what the library does.

The parser takes a node for a plugin where one of its name is registered, and its function body elsewhere; the builder
asks the plugins for all that a build asks, swallows what they raise, and makes a "plan" that tells the layers' types as
they stand in the ONNX file.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
from onnx import TensorProto

from ecea.export.plans import machine as machine_module
from ecea.kernels import plugin

GPU = machine_module.Gpu("NVIDIA H100 80GB HBM3", "9.0", "580.95.05")
FREE = 60 << 30

TYPE_NAMES = {TensorProto.FLOAT: "Float", TensorProto.FLOAT16: "Half", TensorProto.INT8: "Int8"}


class World:
    """One process with TensorRT.

    Attributes:
        machine: to build on.
        parsed: the ONNX models that the parser was given.
        configs: the builder's configurations.
        fail: what goes wrong: ``parse``, ``memory``, ``load``, ``types``, ``body`` (the parser overlooks the plugin),
            ``fuse`` (plugins vanish from the plan), ``timings`` (none is taken), ``swallow`` (a plan in spite of a
            plugin's failure).
    """

    def __init__(self, trt: ModuleType) -> None:
        fakes = importlib.import_module("tensorrt_fakes")
        self.genuine, self._fakes = trt, fakes
        self._forget_plugins()
        self.host = importlib.import_module("tensorrt_host").Host(trt)
        self.fail: set[str] = set()
        self.parsed: list[onnx.ModelProto] = []
        self.configs: list[Any] = []
        self.flags: list[int] = []
        self.cuda = SimpleNamespace(
            Device=lambda number: SimpleNamespace(
                retain_primary_context=lambda: SimpleNamespace(push=lambda: None, pop=lambda: None)
            ),
            Context=SimpleNamespace(pop=lambda: None),
            mem_get_info=lambda: (FREE, 80 << 30),
            Error=RuntimeError,
        )
        self.trt: Any = ModuleType("tensorrt")
        vars(self.trt).update({name: getattr(trt, name) for name in dir(trt) if not name.startswith("__")})
        self.trt.__version__ = "11.4.0.106"
        self.trt.Builder, self.trt.OnnxParser, self.trt.Runtime = self._builder, self._parser, self._runtime
        self.machine: Any = machine_module.Machine(self.trt, GPU, self.cuda)  # type: ignore[arg-type]

    def _forget_plugins(self) -> None:
        library = importlib.import_module("tensorrt.plugin._lib")
        for registered in (library.QDP_CREATORS, library.QDP_REGISTRY):
            registered.clear()
        vars(library.op).pop("ecea", None)
        plugin.register.cache_clear()

    def fake(self, genuine: type, **behaviour: Any) -> Any:
        return self._fakes.fake(self.genuine, genuine, **behaviour)

    def _construct(self, genuine: type, *arguments: Any) -> None:
        self._fakes.check_call(self.genuine, genuine.__init__, arguments, {})  # type: ignore[misc]

    # The builder

    def _builder(self, logger: Any) -> Any:
        self._construct(self.genuine.Builder, logger)

        def create_network(flags: int = 0) -> Any:
            self.flags.append(flags)
            network = self.fake(self.genuine.INetworkDefinition, num_layers=0)
            vars(network)["plugins"] = []
            return network

        builder = self.fake(
            self.genuine.Builder,
            create_network=create_network,
            create_builder_config=self._config,
            build_serialized_network=lambda network, config: self._build(builder, network, config),
        )
        return builder

    def _config(self) -> Any:
        def attach(cache: Any, ignore_mismatch: bool) -> bool:
            if "timings" in self.fail or cache.serialize() == b"of another machine":
                return False
            config._values["get_timing_cache"] = lambda: cache
            return True

        def create(stored: bytes) -> Any:
            return self.fake(self.genuine.ITimingCache, serialize=lambda: self._fakes.HostMemory(stored))

        limits: dict[Any, int] = {}
        flags = {self.genuine.BuilderFlag.TF32}
        config = self.fake(
            self.genuine.IBuilderConfig,
            create_timing_cache=create,
            set_timing_cache=attach,
            set_memory_pool_limit=lambda pool, pool_size: limits.update({pool.name: pool_size}),
            clear_flag=flags.discard,
            set_flag=flags.add,
        )
        vars(config).update(limits=limits, flags_set=flags)
        self.configs.append(config)
        return config

    def _build(self, builder: Any, network: Any, config: Any) -> Any:
        recorder, codes = builder.error_recorder, self.genuine.ErrorCodeTRT
        if "memory" in self.fail:
            recorder.report_error(codes.FAILED_ALLOCATION, "Requested amount of GPU memory could not be allocated")
            return None
        for made, shapes in network.plugins:
            try:
                self.host.build(made, shapes, self.genuine.DataType.HALF, shapes[0][0])
            except Exception:  # as TensorRT does: it tells that something failed, not what
                recorder.report_error(codes.UNSPECIFIED_ERROR, "could not find any implementation for node")
                if "swallow" not in self.fail:
                    return None
        timings = bytes(config.get_timing_cache().serialize()) + b"+"
        config.get_timing_cache()._values["serialize"] = lambda: self._fakes.HostMemory(timings)
        return self._fakes.HostMemory(json.dumps({"Layers": network.layers}).encode())

    # The parser

    def _parser(self, network: Any, logger: Any) -> Any:
        self._construct(self.genuine.OnnxParser, network, logger)
        error = self.fake(
            self.genuine.ParserError,
            node_name=lambda: "node_Conv_7",
            node_operator=lambda: "Conv",
            desc=lambda: "kernel weights must be constant",
        )
        return self.fake(
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
            kinds.append(self.genuine.LayerType.PLUGIN_V3 if made is not None else self.genuine.LayerType.CAST)
        vars(network)["layers"] = layers
        network._values["num_layers"] = len(kinds)
        network._values["get_layer"] = lambda index: self.fake(self.genuine.ILayer, type=kinds[index])
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

    # The runtime

    def _runtime(self, logger: Any) -> Any:
        self._construct(self.genuine.Runtime, logger)

        def load(plan: bytes) -> Any:
            if "load" in self.fail:
                return None
            inspector = self.fake(self.genuine.EngineInspector, get_engine_information=lambda format: plan.decode())
            return self.fake(
                self.genuine.ICudaEngine, create_engine_inspector=lambda: inspector, device_memory_size_v2=123_000_000
            )

        return self.fake(self.genuine.Runtime, deserialize_cuda_engine=load)


def _values(model: onnx.ModelProto) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Shapes and types of all values of a model."""
    graph = model.graph
    listed = {value.name: value.type.tensor_type for value in (*graph.input, *graph.value_info, *graph.output)}
    shapes = {name: tuple(size.dim_value for size in kind.shape.dim) for name, kind in listed.items()}
    types = {name: kind.elem_type for name, kind in listed.items()}
    return shapes, types | {tensor.name: tensor.data_type for tensor in graph.initializer}
