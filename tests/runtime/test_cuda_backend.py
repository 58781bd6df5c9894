"""ONNX Runtime's CUDA provider: it runs on a GPU or not at all. What needs none of CUDA runs on the CPU's memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecea.runtime import EceaError, RequestError, open_engine
from ecea.runtime.backends import cuda, nvidia
from ecea.runtime.errors import BackendUnavailable

onnxruntime = pytest.importorskip("onnxruntime")

SIZE = 32


@pytest.fixture
def bundle(tiny_bundle: Callable[..., Path]) -> Path:
    """A bundle whose engines are for ``cuda`` as well."""
    return tiny_bundle(engines=("fp32", "fp16", "int8"), backends=["tensorrt", "cuda", "openvino", "cpu"])


@pytest.fixture
def with_gpu(libcuda: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that has a GPU, and no more: CUDA's own libraries are what they are on this machine."""
    monkeypatch.setattr(nvidia, "_LIBRARY", str(libcuda()))


def no_cuda_here() -> bool:
    try:
        nvidia.require_gpu()
    except BackendUnavailable:
        return True
    return False


def inputs(batch: int, seed: int = 0) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    image, edge = rng.random((batch, 3, SIZE, SIZE), np.float32), rng.random((batch, 1, SIZE, SIZE), np.float32)
    return image, edge, (rng.random((batch, 1, SIZE, SIZE)) < 0.3).astype(np.float32)


def check(session: Any, batch: int, seed: int = 0) -> None:
    image, edge, mask = inputs(batch, seed)
    out, out_edge = session.infer(image, edge, mask)
    np.testing.assert_allclose(out, 0.5 * image + 0.25 * mask, atol=1e-6)
    np.testing.assert_array_equal(out_edge, edge)


@pytest.fixture
def bound(bundle: Path) -> cuda.CudaSession:
    """The session's bindings on the CPU, where ONNX Runtime binds in the same way."""
    model = onnxruntime.InferenceSession(bundle / "generator.fp32.onnx", providers=["CPUExecutionProvider"])
    return cuda.CudaSession(model, streams=2, device="cpu")


def test_bound_tensors_hold_each_batch(bound: cuda.CudaSession) -> None:
    for batch in (2, 2, 1, 5, 2):
        check(bound, batch, batch)


def test_batches_at_once_do_not_meet(bound: cuda.CudaSession) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda seed: check(bound, 1 + seed % 3, seed), range(30)))


def test_a_result_is_the_callers_own(bound: cuda.CudaSession) -> None:
    image, edge, mask = inputs(1)
    out, _ = bound.infer(image, edge, mask)
    kept = out.copy()
    for seed in range(3):
        check(bound, 1, seed + 1)
    np.testing.assert_array_equal(out, kept)


def test_inputs_that_do_not_lie_in_one_piece_are_taken(bound: cuda.CudaSession) -> None:
    image, edge, mask = inputs(4)
    out, _ = bound.infer(image[::2], edge[::2], mask[::2])
    np.testing.assert_allclose(out, 0.5 * image[::2] + 0.25 * mask[::2], atol=1e-6)


@pytest.mark.skipif(not no_cuda_here(), reason="there is a GPU here")
@pytest.mark.parametrize("backend", ["cuda", "tensorrt"])
def test_a_machine_without_a_gpu_is_told_so_before_any_file_is_read(bundle: Path, backend: str) -> None:
    (bundle / "generator.fp16.weights").unlink()
    with pytest.raises(RequestError, match=rf"'{backend}' that was named cannot run fp16 here \(no NVIDIA driver\)"):
        open_engine(bundle, engine="fp16", backend=backend)


@pytest.mark.skipif(not no_cuda_here(), reason="there is a GPU here")
def test_onnx_runtime_does_not_fall_back_to_the_cpu(
    bundle: Path, with_gpu: None, capfd: pytest.CaptureFixture[str]
) -> None:
    """Asked for CUDA where its libraries are not, ONNX Runtime itself would log lines of red and run on the CPU."""
    with pytest.raises(RequestError, match=r"'cuda' that was named .*(does not load \(lib|has no CUDA)"):
        open_engine(bundle, backend="cuda")
    with open_engine(bundle, engine="fp16") as engine:  # without plans, TensorRT does not get so far
        assert engine.backend in ("openvino", "cpu")
        assert "plans" in engine.passed_over["tensorrt"]
        assert "CUDA" in engine.passed_over["cuda"]
    assert capfd.readouterr() == ("", "")


def options_asked_for(monkeypatch: pytest.MonkeyPatch, providers: list[str]) -> dict[str, Any]:
    """Let ONNX Runtime run on the CPU and say that it runs on ``providers``; what it was asked for."""
    asked: dict[str, Any] = {}
    genuine = onnxruntime.InferenceSession

    class Session:
        def __init__(self, model: Path, options: Any, providers: Any) -> None:
            entry = options.get_session_config_entry("session.disable_cpu_ep_fallback")
            asked.update(providers=providers, fallback_disabled=entry, severity=options.log_severity_level)
            self.session = genuine(model, providers=["CPUExecutionProvider"])

        def get_providers(self) -> list[str]:
            return providers

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    return asked


@pytest.mark.parametrize(("engine", "arithmetic"), [("fp32", "f32"), ("fp16", "f16")])
def test_what_it_asks_of_onnx_runtime(
    bundle: Path, with_gpu: None, monkeypatch: pytest.MonkeyPatch, engine: str, arithmetic: str
) -> None:
    asked = options_asked_for(monkeypatch, ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with open_engine(bundle, engine=engine, backend="cuda") as opened:
        assert (opened.backend, opened.arithmetic) == ("cuda", arithmetic)
    ((provider, options),) = asked["providers"]
    assert provider == "CUDAExecutionProvider"
    assert options["use_tf32"] == 0
    assert asked["fallback_disabled"] == "1"
    assert asked["severity"] == 4


def test_a_session_that_turns_out_to_be_on_the_cpu_is_refused(
    bundle: Path, with_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options_asked_for(monkeypatch, ["CPUExecutionProvider"])
    with pytest.raises(RequestError, match=r"\(ONNX Runtime('s CUDA provider does not load| took the CPU)"):
        open_engine(bundle, backend="cuda")


def test_int8_is_not_for_it(bundle: Path, with_gpu: None) -> None:
    with pytest.raises(RequestError, match=r"\(ONNX Runtime has no integer kernels for CUDA"):
        open_engine(bundle, engine="int8", backend="cuda")


def test_a_build_without_cuda(bundle: Path, with_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(RequestError, match="this build of ONNX Runtime has no CUDA"):
        open_engine(bundle, backend="cuda")


def test_a_model_that_it_does_not_take_is_no_absence(
    bundle: Path, with_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options_asked_for(monkeypatch, ["CUDAExecutionProvider"])
    monkeypatch.setattr(cuda, "_explain_absence", lambda package: None)

    def refuse(*arguments: Any, **options: Any) -> None:
        raise ValueError("[ONNXRuntimeError] : 1 : FAIL : nodes that are assigned to the default CPU EP\nand more")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(EceaError, match=r"fp32\.onnx: ONNX Runtime cannot run it on CUDA: .*default CPU EP$") as caught:
        open_engine(bundle, backend="cuda")
    assert caught.value.exit_status == 1


def test_onnx_runtime_that_is_not_there(bundle: Path, with_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RequestError, match=r"\(onnxruntime cannot be imported"):
        open_engine(bundle, backend="cuda")


def test_kernels_are_timed_where_a_profile_has_them() -> None:
    node = {"cat": "Node", "name": "Conv_1_kernel_time", "dur": 9, "args": {"op_name": "Conv"}}
    kernel = {"cat": "Kernel", "name": "implicit_gemm", "dur": 250, "args": {"op_name": "Conv"}}
    run = {"cat": "Session", "name": "model_run", "dur": 900}
    assert cuda.kernel_times([node]) == []
    (time,) = cuda.kernel_times([node, kernel])
    assert (time.name, time.kind, time.seconds) == ("implicit_gemm", "Conv", 0.00025)
    # Two runs that start it twice each, for two layers.
    (time,) = cuda.kernel_times([run, kernel, {**kernel, "dur": 100}, run, kernel, {**kernel, "dur": 120}])
    assert time.seconds == pytest.approx(0.00036)
