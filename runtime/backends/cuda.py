"""ONNX Runtime's CUDA provider, which is never allowed to run on the CPU instead.

Left alone, ONNX Runtime takes the CPU where CUDA does not load, and puts operators there that CUDA lacks; both look
like success and take many times as long.
"""

import contextlib
import ctypes
import io
import json
import queue
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ecea.runtime.backends.layers import Inputs, LayerTime
from ecea.runtime.backends.nvidia import require_gpu
from ecea.runtime.backends.settings import Settings
from ecea.runtime.bundle import OUTPUTS
from ecea.runtime.errors import BackendUnavailable, EceaError

Tensor = npt.NDArray[np.float32]

PROVIDER = "CUDAExecutionProvider"


_FATAL, _WARNING = 4, 2  # severities of ONNX Runtime's log


class CudaSession:
    """One ONNX Runtime session, and for each of its streams tensors that stay on the GPU.

    Args:
        session: of ONNX Runtime.
        streams: how many batches may be under way at once.
        arithmetic: what it computes in.
        device: where the tensors lie.
    """

    def __init__(self, session: Any, streams: int, arithmetic: str = "f32", device: str = "cuda") -> None:
        self.arithmetic = arithmetic
        self._idle: queue.SimpleQueue[_Binding] = queue.SimpleQueue()
        for _ in range(streams):
            self._idle.put(_Binding(session, device))

    def infer(self, image: Tensor, edge: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        binding = self._idle.get()
        try:
            return binding.run({"image": image, "edge": edge, "mask": mask})
        finally:
            self._idle.put(binding)

    def close(self) -> None:
        self._idle = queue.SimpleQueue()


class _Binding:
    """Inputs and outputs that stay where they are from run to run, until a batch of another size comes."""

    def __init__(self, session: Any, device: str) -> None:
        self._session = session
        self._device = device
        self._shape: tuple[int, ...] = ()
        self._binding: Any = None
        self._inputs: dict[str, Any] = {}
        self._outputs: dict[str, Any] = {}

    def run(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        if inputs["image"].shape != self._shape:
            self._bind(inputs)
        for name, tensor in inputs.items():
            self._inputs[name].update_inplace(np.ascontiguousarray(tensor))
        self._session.run_with_iobinding(self._binding)
        # Where a tensor lies on the host, what comes of it is a view.
        out, out_edge = (np.array(self._outputs[name].numpy()) for name in OUTPUTS)
        return out, out_edge

    def _bind(self, inputs: Mapping[str, Tensor]) -> None:
        from onnxruntime import OrtValue

        count, _, height, width = inputs["image"].shape
        shapes = {name: tensor.shape for name, tensor in inputs.items()}
        shapes |= {name: (count, channels, height, width) for name, channels in OUTPUTS.items()}
        values = {
            name: OrtValue.ortvalue_from_shape_and_type(shape, np.float32, self._device, 0)
            for name, shape in shapes.items()
        }
        self._binding = self._session.io_binding()
        self._inputs = {name: values[name] for name in inputs}
        self._outputs = {name: values[name] for name in OUTPUTS}
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        self._shape = inputs["image"].shape


def require(engine: str) -> None:
    """Return where there is a GPU, and the provider is one for this engine.

    Raises:
        BackendUnavailable: where not.
    """
    require_gpu()
    if engine == "int8":
        raise BackendUnavailable("ONNX Runtime has no integer kernels for CUDA: int8 would be slower there than fp16")


def load(model: Path, settings: Settings) -> CudaSession:
    """Load an ONNX model on the GPU.

    Raises:
        BackendUnavailable: where there is no GPU, or ONNX Runtime cannot use it.
        EceaError: where it does not take the model, or would run a part of it on the CPU.
    """
    session = _create(model, settings)
    return CudaSession(session, settings.streams, "f16" if settings.engine == "fp16" else "f32")


def layer_times(model: Path, settings: Settings, inputs: Inputs) -> list[LayerTime]:
    """Time each kernel of a model that is loaded once more, to count.

    Nothing comes of it with ONNX Runtime's own packages: they are built without CUPTI. What they tell of operators is
    the time that starting them takes, which is not given for what it is not.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = _create(model, settings, profile=f"{folder}/layers")
        runner = CudaSession(session, streams=1)
        for _ in range(2):  # the first run allocates
            runner.infer(*inputs)
        events = json.loads(Path(session.end_profiling()).read_text())
    return kernel_times(events)


def kernel_times(events: list[dict[str, Any]]) -> list[LayerTime]:
    """What a profile of ONNX Runtime tells of kernels on the GPU; empty where it tells of the host alone.

    One network starts a kernel many times: its times are added up, in the mean of the runs.
    """
    runs = max(1, sum(event.get("name") == "model_run" for event in events))
    sums: dict[tuple[str, str], float] = {}
    for event in events:
        if event.get("cat") == "Kernel":
            key = event["name"], event.get("args", {}).get("op_name", "")
            sums[key] = sums.get(key, 0.0) + event["dur"] / 1e6 / runs
    return [LayerTime(name, kind, seconds) for (name, kind), seconds in sums.items()]


def _create(model: Path, settings: Settings, profile: str | None = None) -> Any:
    require(settings.engine)
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailable(f"onnxruntime cannot be imported ({error})") from error
    if PROVIDER not in onnxruntime.get_available_providers():
        raise BackendUnavailable("this build of ONNX Runtime has no CUDA: install onnxruntime-gpu instead")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    # TensorFloat-32 has the ten bits of half precision: an fp32 engine is not to be computed in it.
    provider = (PROVIDER, {"device_id": 0, "use_tf32": 0})
    onnxruntime.set_default_logger_severity(_FATAL)  # what goes wrong is told in our own sentence
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            onnxruntime.preload_dlls()
        session = onnxruntime.InferenceSession(model, options, providers=[provider])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        _explain_absence(Path(onnxruntime.__file__).parent)
        message = str(error).strip().splitlines()[0]
        raise EceaError(f"{model}: ONNX Runtime cannot run it on CUDA: {message}") from error
    finally:
        onnxruntime.set_default_logger_severity(_WARNING)
    if session.get_providers()[:1] != [PROVIDER]:
        _explain_absence(Path(onnxruntime.__file__).parent)
        raise BackendUnavailable("ONNX Runtime took the CPU, and does not say why")
    return session


def _explain_absence(package: Path) -> None:
    """Say which library ONNX Runtime does not find, which it logs and does not raise.

    Raises:
        BackendUnavailable: where there is such a library.
    """
    try:
        for name in ("shared", "cuda"):
            ctypes.CDLL(str(package / "capi" / f"libonnxruntime_providers_{name}.so"), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise BackendUnavailable(f"ONNX Runtime's CUDA provider does not load ({error})") from error
