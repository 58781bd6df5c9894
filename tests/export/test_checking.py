"""In which arithmetics a form is offered: those that this processor has and that were measured to be good enough."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from numpy.typing import NDArray

from ecea.export import checking
from ecea.export.checking import Checker
from ecea.export.forms import Form, forms
from ecea.export.parity import ParityError
from ecea.runtime.backends import Backend, Settings
from ecea.runtime.bundle import OUTPUTS
from ecea.runtime.errors import BackendUnavailable, EceaError

Tensor = NDArray[np.float32]


class Session:
    """PyTorch's own results, with an error of a given accuracy in dB."""

    def __init__(
        self, small: Any, decibels: float, arithmetic: str, holds: int, before_inference: Callable[[], None]
    ) -> None:
        self.small, self.arithmetic, self.holds = small, arithmetic, holds
        self.before_inference = before_inference
        self.error = np.float32(10 ** (-decibels / 20))

    def infer(self, image: Tensor, edge: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        self.before_inference()
        if len(image) > self.holds:
            raise RuntimeError("Failed to allocate memory\nfor a buffer")
        return tuple(output[: len(image)] + self.error for output in self.small.expected)

    def close(self) -> None:
        pass


class Bench:
    """A checker whose backends are as accurate as told: by arithmetic, in dB."""

    def __init__(self, small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.small, self.monkeypatch = small, monkeypatch
        self.said: list[str] = []
        self.loaded: list[tuple[str, str]] = []
        self.settings: list[Settings] = []
        self.absent: tuple[str, ...] = ()
        self.refusing: tuple[str, ...] = ()  # what cannot load the model
        self.wrong: tuple[str, ...] = ()  # what is accurate to 20 dB alone
        self.full: tuple[str, ...] = ()  # what has no memory for batches of more than 3
        self.network = Mock()
        self.before_inference: Callable[[], None] = lambda: None
        self.entries: tuple[dict[str, Any], ...] = ()  # of the last form

    def __call__(
        self, form: Form, accuracy: dict[str, float], target_db: float | None = None, native: bool = True
    ) -> tuple[list[tuple[str, str, str]], tuple[str, ...]]:
        """Backend, arithmetic and output of each entry; and what the form is offered in."""

        def load(name: str) -> Callable[[Path, Settings], Session]:
            def loading(model: Path, settings: Settings) -> Session:
                (arithmetic,) = settings.arithmetic
                self.loaded.append((name, arithmetic))
                self.settings.append(settings)
                if arithmetic not in accuracy or name in self.absent:
                    raise BackendUnavailable("no such thing here")
                if name in self.refusing:
                    raise EceaError(f"{model}: ONNX Runtime cannot run it: nodes are assigned to the default CPU EP")
                decibels = 20 if name in self.wrong else accuracy[arithmetic]
                holds = 3 if name in self.full else 8
                return Session(self.small, decibels, arithmetic, holds, self.before_inference)

            return loading

        for name in ("openvino", "cpu", "cuda"):
            backend: Any = Backend(load(name), lambda *arguments: [])  # type: ignore[arg-type]
            self.monkeypatch.setitem(checking.BACKENDS, name, backend)
        has = ("bf16", "f32") if native else ("f32",)
        self.monkeypatch.setattr(checking, "native_arithmetic", lambda: has)
        expected = dict(zip(OUTPUTS, self.small.expected, strict=True))
        check = Checker(Path(), self.network, self.small.tiles, expected, self.said.append)
        self.entries, good = check(form, None if target_db is None else {"target_db": target_db})
        return [(entry["backend"], entry["arithmetic"], entry["output"]) for entry in self.entries], good


@pytest.fixture
def bench(small: Any, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(small, monkeypatch)


def form(engine: str, backend: str = "openvino") -> Form:
    (found,) = (form for form in forms(engine) if form.backends == (backend,))
    return found


def for_gpus(engine: str) -> Form:
    (found,) = (form for form in forms(engine) if "tensorrt" in form.backends)
    return found


BOTH_OUTPUTS = ("out", "out_edge")
IN_F32 = [("openvino", "f32", output) for output in BOTH_OUTPUTS]
IN_BF16 = [("openvino", "bf16", output) for output in BOTH_OUTPUTS]


def test_bfloat16_is_offered_first_where_it_is_native_and_good(bench: Bench) -> None:
    assert bench(form("fp16"), {"f32": 80, "bf16": 60}) == (IN_F32 + IN_BF16, ("bf16", "f32"))


def test_what_the_processor_lacks_is_not_tried(bench: Bench) -> None:
    assert bench(form("fp16"), {"f32": 80, "bf16": 60}, native=False) == (IN_F32, ("f32",))
    assert bench.loaded == [("openvino", "f32")]


def test_fp32_stays_fp32(bench: Bench) -> None:
    assert bench(form("fp32"), {"f32": 120, "bf16": 120}) == (IN_F32, ("f32",))
    assert bench.loaded == [("openvino", "f32")]


@pytest.mark.parametrize("engine", ["fp16", "int8"])
def test_onnx_runtime_has_no_bfloat16(engine: str, bench: Bench) -> None:
    target_db = 45 if engine == "int8" else None
    _, good = bench(form(engine, "cpu"), {"f32": 80, "bf16": 80}, target_db)
    assert good == ("f32",)
    assert bench.loaded == [("cpu", "f32")]


def test_fp16_out_of_tolerance_in_bfloat16_is_told_and_not_offered(bench: Bench) -> None:
    assert bench(form("fp16"), {"f32": 80, "bf16": 45}) == (IN_F32, ("f32",))
    assert any(line.startswith("fp16        bf16 is not used: ") and "45.0 dB" in line for line in bench.said)


@pytest.mark.parametrize(
    ("in_float32", "in_bfloat16", "offered"),
    [
        (50, 46, True),  # both are within the target of 45
        (50, 44, False),
        (46, 44, False),
        (45.2, 44.9, False),  # it was, as hardly worse than what does reach the target
        (40, 39.7, True),  # both are below; hardly worse
        (40, 39.3, False),
        (40, 25, False),
        (40, 10, False),  # out of all tolerance
    ],
)
def test_int8_is_offered_in_bfloat16_where_that_costs_nothing_that_matters(
    in_float32: float, in_bfloat16: float, offered: bool, bench: Bench
) -> None:
    entries, good = bench(form("int8"), {"f32": in_float32, "bf16": in_bfloat16}, target_db=45)
    assert good == (("bf16", "f32") if offered else ("f32",))
    assert entries == IN_F32 + (IN_BF16 if offered else [])


def test_a_form_that_is_wrong_in_float32_is_no_form(bench: Bench) -> None:
    with pytest.raises(ParityError, match=r"generator\.fp16\.openvino\.onnx on openvino: output 'out' differs"):
        bench(form("fp16"), {"f32": 40, "bf16": 60})


def test_a_backend_that_is_not_here_is_told(bench: Bench) -> None:
    assert bench(form("fp16"), {}) == ([], ("f32",))
    assert any("on openvino: not compared, no such thing here" in line for line in bench.said)


@pytest.mark.parametrize("engine", ["fp32", "fp16"])
def test_the_form_for_gpus_is_compared_on_cuda_where_that_loads(engine: str, bench: Bench) -> None:
    entries, _ = bench(for_gpus(engine), {"f32": 120})
    assert [backend for backend, _, output in entries if output == "out"] == ["cpu", "cuda"]
    bench.absent = ("cuda",)
    entries, _ = bench(for_gpus(engine), {"f32": 120})
    assert [backend for backend, _, output in entries if output == "out"] == ["cpu"]
    assert any("on cuda: not compared, no such thing here" in line for line in bench.said)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("refusing", "ONNX Runtime cannot run it: nodes are assigned to the default CPU EP"),
        ("full", "fails at batch 8 (Failed to allocate memory for a buffer)"),
    ],
)
def test_a_gpu_that_does_not_run_the_form_is_told_and_no_processor_that_does_not(
    fault: str, message: str, bench: Bench
) -> None:
    setattr(bench, fault, ("cuda",))
    entries, _ = bench(for_gpus("fp16"), {"f32": 120})
    assert [backend for backend, _, output in entries if output == "out"] == ["cpu"]
    assert bench.said[-1] == f"fp16        generator.fp16.onnx on cuda: not compared, {message}"
    setattr(bench, fault, ("cpu",))
    with pytest.raises(EceaError, match=r"cannot run it|on cpu: fails at batch 8"):
        bench(for_gpus("fp16"), {"f32": 120})


def test_a_gpu_that_computes_something_else_ends_the_export(bench: Bench) -> None:
    bench.wrong = ("cuda",)
    with pytest.raises(ParityError, match=r"generator\.fp32\.onnx on cuda: output 'out' differs"):
        bench(for_gpus("fp32"), {"f32": 120})


def test_the_speed_is_how_many_times_pytorchs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(checking.time, "perf_counter", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    bench.network.side_effect = lambda *_: wait(3)
    bench.before_inference = lambda: wait(2)
    bench(form("fp32"), {"f32": 120})
    assert [entry["times_pytorch"] for entry in bench.entries] == [1.5, 1.5]


def test_a_form_runs_on_all_processors_as_the_engine_that_it_is(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "usable_processors", lambda: 5)
    bench(for_gpus("fp16"), {"f32": 80})
    assert [(settings.threads, settings.engine) for settings in bench.settings] == [(5, "fp16"), (5, "fp16")]


def test_int8_is_not_tried_on_cuda(bench: Bench) -> None:
    bench(for_gpus("int8"), {"f32": 120}, target_db=45)
    assert bench.loaded == [("cpu", "f32")]
