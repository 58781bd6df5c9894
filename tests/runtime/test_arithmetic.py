"""What an engine computes in: the fastest that its bundle allows and this processor has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ecea.runtime import open_engine
from ecea.runtime.backends import openvino

pytest.importorskip("openvino")


def allow(bundle: Path, *arithmetic: str) -> Path:
    manifest = json.loads((bundle / "manifest.json").read_text())
    for record in manifest["engines"]:
        record["arithmetic"] = list(arithmetic)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


def has(monkeypatch: pytest.MonkeyPatch, *arithmetic: str) -> None:
    monkeypatch.setattr(openvino, "native_arithmetic", lambda: arithmetic)


@pytest.mark.parametrize(
    ("allowed", "native", "taken"),
    [
        (("bf16", "f32"), ("bf16", "f32"), "bf16"),
        (("bf16", "f32"), ("f32",), "f32"),
        (("f32",), ("bf16", "f32"), "f32"),
        (("fp4", "f32"), ("bf16", "f32"), "f32"),  # of a later version
        ((), ("bf16", "f32"), "f32"),
    ],
)
def test_both_have_to_agree(
    allowed: tuple[str, ...],
    native: tuple[str, ...],
    taken: str,
    tiny_bundle: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    has(monkeypatch, *native)
    image = np.random.default_rng(0).random((1, 3, 32, 32), np.float32)
    mask = np.ones((1, 1, 32, 32), np.float32)
    with open_engine(allow(tiny_bundle(), *allowed), backend="openvino") as engine:
        assert engine.arithmetic == taken
        out, _ = engine.infer(image, mask, mask)
    assert out == pytest.approx(0.5 * image + 0.25, abs=1e-2 if taken == "bf16" else 1e-6)


def test_a_bundle_that_does_not_say_allows_float32_alone(
    tiny_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, "bf16", "f32")
    with open_engine(tiny_bundle(), backend="openvino") as engine:
        assert engine.arithmetic == "f32"


def test_onnx_runtime_computes_in_float32(tiny_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, "bf16", "f32")
    with open_engine(allow(tiny_bundle(), "bf16", "f32"), backend="cpu") as engine:
        assert engine.arithmetic == "f32"


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("fpu avx2 avx512f avx512_bf16", ("bf16", "f32")),
        ("fpu amx_bf16 amx_tile", ("bf16", "f32")),
        ("fpu avx2 avx512f avx512_vnni", ("f32",)),
        ("fpu not_avx512_bf16_at_all", ("f32",)),
    ],
)
def test_what_the_processor_says(
    flags: str, found: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(openvino, "Path", lambda path: info if path == "/proc/cpuinfo" else Path(path))
    assert openvino.native_arithmetic() == found


def test_where_the_processor_says_nothing_nothing_is_assumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "Path", lambda path: tmp_path / "absent")
    assert openvino.native_arithmetic() == ("f32",)


@pytest.mark.parametrize(
    ("machine", "flags", "overflow"),
    [
        ("x86_64", "fpu avx2", True),
        ("AMD64", "fpu avx2 avx512f", True),
        ("x86_64", "fpu avx2 avx512f avx512_vnni", False),
        ("x86_64", "fpu avx2 avx_vnni", False),
        ("x86_64", "fpu amx_int8", False),
        ("aarch64", "fp asimd", False),
    ],
)
def test_where_sums_of_bytes_overflow(
    machine: str, flags: str, overflow: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(openvino, "Path", lambda path: info if path == "/proc/cpuinfo" else Path(path))
    monkeypatch.setattr(openvino.platform, "machine", lambda: machine)
    assert openvino.sums_of_bytes_overflow() is overflow


@pytest.mark.parametrize(
    ("overflow", "engine", "taken"), [(True, "int8", "cpu"), (False, "int8", "openvino"), (True, "fp32", "openvino")]
)
def test_int8_runs_where_it_is_fast(
    overflow: bool, engine: str, taken: str, tiny_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "sums_of_bytes_overflow", lambda: overflow)
    path = tiny_bundle(engines=("fp32", "int8"), backends=["openvino", "cpu"])
    with open_engine(path, engine=engine) as opened:
        assert opened.backend == taken
