"""TensorRT's runtime over a GPU made of numpy, checked against the genuine bindings.

Each object stands behind the genuine class (``tensorrt_contract``). What it computes is ``out = 0.5 image + 0.25 mask``
and ``out_edge = edge``, in two steps with the memory that contexts are given in between.
"""

from __future__ import annotations

import functools
import inspect
import json
from types import ModuleType
from typing import Any

import numpy as np
from tensorrt_contract import Checked, check_call

CHANNELS = {"image": 3, "edge": 1, "mask": 1, "out": 3, "out_edge": 1}

LAYERS = [{"Name": "halve", "LayerType": "kgen"}, "shade"]


def plan_bytes(batch: int, size: int, **changes: Any) -> bytes:
    """A plan, as the fake understands one.

    Args:
        batch: tiles.
        size: of a tile.
        changes: among them ``error``, which is added to all that it paints; ``seconds``, which it takes by the GPU's
            clock; ``onnx``, a model that is computed in place of the arithmetic above.
    """
    return json.dumps({"batch": batch, "size": size, "tensors": list(CHANNELS), **changes}).encode()


class Runtime:
    """``trt.Runtime``."""

    def __init__(self, trt: ModuleType, gpu: Any) -> None:
        self.trt, self.gpu = trt, gpu
        self.error_recorder: Any = None

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        self.gpu.call("deserialize_cuda_engine", context=False)  # it takes the primary one by itself
        try:
            plan = json.loads(serialized_engine)
        except ValueError:
            self.error_recorder.report_error(self.trt.ErrorCodeTRT.INVALID_ARGUMENT, "Serialization:\n  magic tag")
            return None
        return Checked(self.trt.ICudaEngine, CudaEngine(self.trt, self.gpu, plan))

    def __del__(self) -> None:
        self.gpu.released.append("runtime")


class CudaEngine:
    """``trt.ICudaEngine``."""

    def __init__(self, trt: ModuleType, gpu: Any, plan: dict[str, Any]) -> None:
        self.trt, self.gpu, self.plan = trt, gpu, plan
        self.error_recorder: Any = None
        self.num_io_tensors = len(plan["tensors"])
        self.device_memory_size_v2 = 4 * 3 * plan["batch"] * plan["size"] ** 2

    def get_tensor_name(self, index: int) -> str:
        return self.plan["tensors"][index]

    def get_tensor_shape(self, name: str) -> Any:
        return (self.plan.get("shown_batch", self.plan["batch"]), CHANNELS[name], self.plan["size"], self.plan["size"])

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self.trt.DataType, self.plan.get("dtype", "FLOAT"))

    def get_tensor_mode(self, name: str) -> Any:
        return self.trt.TensorIOMode.OUTPUT if name.startswith("out") else self.trt.TensorIOMode.INPUT

    def create_execution_context(self, strategy: Any = None) -> Any:
        assert strategy == self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self.gpu.call("create_execution_context")
        return Checked(self.trt.IExecutionContext, ExecutionContext(self))

    def create_engine_inspector(self) -> Any:
        return Checked(self.trt.EngineInspector, Inspector(self.plan.get("Layers", LAYERS)))

    def __del__(self) -> None:
        self.gpu.released.append("engine")


class Inspector:
    """``trt.EngineInspector``."""

    def __init__(self, layers: list[Any]) -> None:
        self.layers = layers

    def get_engine_information(self, format: Any) -> str:
        assert format.name == "JSON"
        return json.dumps({"Layers": self.layers})


class ExecutionContext:
    """``trt.IExecutionContext``."""

    def __init__(self, engine: CudaEngine) -> None:
        self.engine, self.gpu = engine, engine.gpu
        self.error_recorder: Any = None
        self.profiler: Any = None
        self.work = 0
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.recorded_graph = False

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= self.engine.device_memory_size_v2
        self.work = memory

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        return shape[0] == self.engine.plan["batch"]

    def infer_shapes(self) -> list[str]:
        return [name for name in ("image", "edge", "mask") if name not in self.shapes]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert not self.recorded_graph, "a context that a graph was recorded of is changed"
        assert memory % 256 == 0
        self.addresses[name] = memory
        return name in CHANNELS

    def execute_async_v3(self, stream_handle: int) -> bool:
        self.gpu.call("execute_async_v3")
        if (report := self.gpu.failures.get("recorder")) and (message := report.popleft()) is not None:
            self.error_recorder.report_error(self.engine.trt.ErrorCodeTRT.FAILED_EXECUTION, str(message))
            return str(message).endswith("and goes on")
        assert set(self.addresses) == set(CHANNELS)
        self.recorded_graph = self.recorded_graph or stream_handle in self.gpu.capturing
        self.gpu.put(stream_handle, "compute", self.halve)
        self.gpu.put(stream_handle, "compute", self.shade)
        if self.profiler is not None:
            self.profiler.report_layer_time("halve", 2.0)
            self.profiler.report_layer_time("shade", 1.0)
        return True

    def halve(self) -> None:
        self.gpu.floats(self.work, self._count("image"))[:] = 0.5 * self._read("image")

    def shade(self) -> None:
        plan = self.engine.plan
        shape = (plan["batch"], -1, plan["size"], plan["size"])
        mask = np.broadcast_to(self._read("mask").reshape(shape), (plan["batch"], 3, *shape[2:]))
        halved = self.gpu.floats(self.work, self._count("image"))
        self._read("out")[:] = halved + 0.25 * mask.ravel()
        self._read("out_edge")[:] = self._read("edge")
        halved[:] = np.nan  # another batch's by now
        if "onnx" in plan:
            self._compute(plan["onnx"])
        self._read("out")[:] += plan.get("error", 0)
        self.gpu.clock += plan.get("seconds", 0)

    def _compute(self, model: str) -> None:
        plan = self.engine.plan
        shape = (plan["batch"], -1, plan["size"], plan["size"])
        inputs = {name: self._read(name).reshape(shape) for name in ("image", "edge", "mask")}
        outputs = ("out", "out_edge")
        for name, output in zip(outputs, _loaded(model).run(outputs, inputs), strict=True):
            self._read(name)[:] = output.ravel()

    def _count(self, name: str) -> int:
        return self.engine.plan["batch"] * CHANNELS[name] * self.engine.plan["size"] ** 2

    def _read(self, name: str) -> np.ndarray:
        return self.gpu.floats(self.addresses[name], self._count(name))

    def __del__(self) -> None:
        if not self.gpu.stack() and self.gpu.broken is None:
            self.gpu.violations.append("an execution context is destroyed in a thread without a context")
        self.gpu.released.append("execution context")


@functools.cache
def _loaded(model: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def install(trt: ModuleType, gpu: Any, monkeypatch: Any) -> None:
    """Let ``trt.Runtime`` be the fake."""

    def runtime(logger: Any) -> Any:
        check_call(genuine.__init__, (logger,), {})
        return Checked(genuine, Runtime(trt, gpu))

    genuine = runtime.genuine = getattr(trt.Runtime, "genuine", trt.Runtime)  # type: ignore[attr-defined]
    monkeypatch.setattr(trt, "Runtime", runtime)


def install_graphs(driver: ModuleType, gpu: Any, monkeypatch: Any) -> None:
    """Let the graph functions of ``cuda.bindings.driver`` record and replay what is put into the GPU's streams."""
    success = driver.CUresult.CUDA_SUCCESS

    def answer(name: str, *values: Any) -> tuple[Any, ...]:
        pending = gpu.failures.get(name)
        failure = pending.popleft() if pending else None
        return (success, *values) if failure is None else (driver.CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, None)

    def cuStreamBeginCapture(hStream: Any, mode: Any) -> Any:  # noqa: N802, N803
        assert mode == driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        result = answer("cuStreamBeginCapture")
        if result[0] == success:
            assert not gpu.streams[int(hStream)], "what was put before the recording is not done"
            gpu.capturing[int(hStream)] = []
        return result[:1]

    def cuStreamEndCapture(hStream: Any) -> Any:  # noqa: N802, N803
        return answer("cuStreamEndCapture", gpu.capturing.pop(int(hStream)))

    def cuGraphInstantiate(hGraph: Any, flags: int) -> Any:  # noqa: N802, N803
        assert flags == 0
        gpu.calls.append("cuGraphInstantiate")
        return answer("cuGraphInstantiate", list(hGraph))

    def cuGraphLaunch(hGraphExec: Any, hStream: Any) -> Any:  # noqa: N802, N803
        gpu.calls.append("cuGraphLaunch")
        result = answer("cuGraphLaunch")
        if result[0] == success:
            for what, work in hGraphExec:
                gpu.put(int(hStream), what, work)
        return result[:1]

    def cuGraphExecDestroy(hGraphExec: Any) -> Any:  # noqa: N802, N803
        gpu.released.append("graph")
        return (success,)

    def cuGraphDestroy(hGraph: Any) -> Any:  # noqa: N802, N803
        return (success,)

    for fake in (
        cuStreamBeginCapture,
        cuStreamEndCapture,
        cuGraphInstantiate,
        cuGraphLaunch,
        cuGraphExecDestroy,
        cuGraphDestroy,
    ):
        genuine = getattr(driver, fake.__name__)
        assert list(inspect.signature(genuine).parameters) == list(inspect.signature(fake).parameters)
        monkeypatch.setattr(driver, fake.__name__, fake)
