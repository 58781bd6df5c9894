"""``make check-tensorrt``: it tries what the documentation claims, all of it, and can tell success from failure."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
from ecea.export.plans import rebuild
from ecea.runtime.backends import BACKENDS, Backend, Settings, cpu
from ecea.runtime.bundle import Bundle
from ecea.runtime.errors import BackendUnavailable

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("check_tensorrt", ROOT / "benchmarks" / "check_tensorrt.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def documented() -> list[str]:
    """The claims in the documentation's table that this command is to prove."""
    rows = [line.strip("| ").split(" | ") for line in (ROOT / "docs" / "tensorrt.md").read_text().splitlines()]
    return [cells[0] for cells in rows if len(cells) == 3 and "`make check-tensorrt`" in cells[1]]


def test_it_tries_every_claim_of_the_documentation(script: ModuleType) -> None:
    assert [claim.text for claim in script.CLAIMS] == documented()
    assert len(documented()) > 10


def test_the_makefile_has_the_command() -> None:
    assert re.search(r"^check-tensorrt:.*\n(\t.*\n)*\t\$\(BIN\)/python benchmarks/check_tensorrt.py$",
                     (ROOT / "Makefile").read_text(), re.MULTILINE)  # fmt: skip


def test_without_tensorrt_it_says_why_of_each_and_fails(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unavailable() -> None:
        raise BackendUnavailable("TensorRT cannot be imported (no libnvinfer.so.11)")

    monkeypatch.setattr(script, "find_machine", unavailable)
    assert script.main([]) == 1
    _, *lines, last = capsys.readouterr().out.splitlines()
    assert [re.split(r" {2,}", line.strip()) for line in lines] == [
        [claim.text, "not run", "TensorRT cannot be imported (no libnvinfer.so.11)"] for claim in script.CLAIMS
    ]
    assert last == f"0 of {len(script.CLAIMS)} proved"


class Session:
    """Runs an engine of the bundle for the CPU in a plan's place."""

    arithmetic = "f16"

    def __init__(self, plan: Path) -> None:
        self._session = cpu.load(plan.with_name("generator.fp32.cpu.onnx"), Settings(threads=2))
        self.infer, self.close = self._session.infer, self._session.close


@pytest.fixture
def bench(
    script: ModuleType, world: Any, small: Any, exported: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """A bench on TensorRT's fakes."""
    monkeypatch.setitem(BACKENDS, "tensorrt", Backend(lambda model, settings: Session(model), lambda *_: []))
    monkeypatch.setattr(rebuild, "required_machine", lambda: world.machine)
    monkeypatch.setattr(rebuild, "tile_sources", lambda *_: contextlib.nullcontext([]))
    monkeypatch.setattr(rebuild, "parity_tiles", lambda _: small.tiles)
    made = script.Bench(world.machine, tmp_path, script.SMALL, lambda line: None)
    vars(made)["bundle"] = Path(shutil.copytree(exported.path, tmp_path / "onnx.ecea"))
    vars(made)["tiles"] = small.tiles
    return made


def outcome(script: ModuleType, bench: Any, check: str) -> tuple[str, str]:
    (claim,) = (claim for claim in script.CLAIMS if claim.check.__name__ == check)
    result: tuple[str, str] = script.run(bench, claim)
    return result


@pytest.mark.parametrize(
    ("check", "seen"),
    [
        ("parser_takes_plugin", "9 nodes in each"),
        ("plans_are_built", "fp32 0 MB, fp16 0 MB, int8 0 MB"),
        ("plans_are_in_their_precision", "9 plugins; int8: "),
        ("callbacks_surface", "failed: made to fail"),
        ("damage_is_refused", "generator.fp16.b1.plan: has "),
        ("kernel_without_integers", "within "),
    ],
)
def test_what_is_true_is_proved(check: str, seen: str, script: ModuleType, bench: Any) -> None:
    result, why = outcome(script, bench, check)
    assert result == "proved", why
    assert seen in why


@pytest.mark.parametrize(
    ("check", "fail"),
    [("parser_takes_plugin", "body"), ("plans_are_built", "memory"), ("plans_are_in_their_precision", "types")],
)
def test_what_is_not_true_fails(check: str, fail: str, script: ModuleType, bench: Any, world: Any) -> None:
    world.fail = {fail}
    assert outcome(script, bench, check)[0] == "failed"


def test_timings_that_save_nothing_are_no_proof(script: ModuleType, bench: Any) -> None:
    """The fakes take no time, so the second build is no faster."""
    result, why = outcome(script, bench, "timings_are_used")
    assert (result, why) == ("failed", "0 s, then 0 s") or result == "proved"
