"""PTX for GPUs that are not here: what it declares, what it takes, and that the same bytes come out everywhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

aot = pytest.importorskip("ecea.kernels.ahead_of_time", reason="Triton is not installed")
from ecea.kernels import ptx  # noqa: E402
from ecea.kernels.tactics import TACTICS, Tactic, preferred  # noqa: E402

# The largest and the smallest level of the default network; the other two are compiled by the plugin's tests.
LEVELS = [(4096, 1), (64, 8)]
LARGEST = aot.Problem(4096, 1, 64, "fp16", 1.0)  # the exported projection has absorbed the scale


@pytest.mark.parametrize("architecture", list(aot.PTX_ISA))
def test_every_architecture_gets_a_kernel(architecture: int) -> None:
    kernel = aot.compile_kernel(architecture, LARGEST, 5)
    suffix = "a" if architecture >= 90 else ""
    assert ptx.target(kernel.ptx) == f"sm_{architecture}{suffix}"
    isa = aot.PTX_ISA[architecture]
    assert f".version {isa // 10}.{isa % 10}\n" in kernel.ptx
    assert [parameter.type for parameter in ptx.entry(kernel.ptx).parameters] == ["u64"] * 4
    assert ptx.required_threads(kernel.ptx) == kernel.threads == 256
    assert kernel.fits
    assert kernel.blocks >= 1


@pytest.mark.parametrize(
    ("architecture", "instruction"), [(80, r"mma\.sync"), (90, r"wgmma\.mma_async"), (100, r"tcgen05\.mma")]
)
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_it_runs_on_the_tensor_cores_and_copies_in_the_background(
    architecture: int, instruction: str, dtype: str
) -> None:
    text = aot.compile_kernel(architecture, aot.Problem(4096, 1, 64, dtype, 1.0), 5).ptx
    assert re.search(instruction, text)
    assert "cp.async.cg.shared.global" in text
    assert "ld.global.v4.b32" in text
    assert not re.search(r"\bld\.global\.(b|u)(16|32)\b", text)  # one element at a time
    assert "ex2.approx" in text


# Compiling every tactic at 4096 tokens takes the better part of a minute.
@pytest.mark.parametrize(
    ("tokens", "heads"), [pytest.param(*level, marks=pytest.mark.slow if level[0] == 4096 else ()) for level in LEVELS]
)
def test_a_level_of_the_network_has_a_choice(tokens: int, heads: int) -> None:
    problem = aot.Problem(tokens, heads, 64, "fp16", 1.0)
    offered = aot.offered_tactics(90, problem)
    assert len(offered) >= 2
    for number in offered:
        kernel = aot.compile_kernel(90, problem, number)
        assert kernel.spill_bytes == 0
        assert 0 < kernel.shared_bytes <= 48 * 1024
        assert max(TACTICS[number].block_m, TACTICS[number].block_n) <= tokens


def test_what_spills_or_takes_too_much_shared_memory_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aot, "TACTICS", {number: TACTICS[number] for number in (5, 7, 12)})  # not all are compiled
    large = aot.compile_kernel(90, LARGEST, 7)
    assert large.spill_bytes == 0
    assert large.shared_bytes > 48 * 1024
    offered = aot.offered_tactics(90, LARGEST)
    assert 5 in offered
    assert 7 not in offered
    spilling = replace(aot.compile_kernel(90, LARGEST, 5), spill_bytes=8)
    assert spilling.shared_bytes <= 48 * 1024, "it must be the spill that counts"
    assert not spilling.fits
    wide = aot.Problem(256, 1, 128, "fp16", 0.125)
    assert aot.compile_kernel(80, wide, 12).spill_bytes > 0


def test_even_shapes_have_no_masks() -> None:
    even, ragged = (aot.compile_kernel(90, aot.Problem(n, 1, 64, "fp16", 0.125), 5).ptx for n in (1024, 1000))
    assert "setp.lt.s32" in ragged
    # A masked copy reads as many bytes as are there; an even one leaves that number out, or gives it for the last turn.
    assert len(re.findall(r"\bsetp\.", even)) < len(re.findall(r"\bsetp\.", ragged)) / 2


COMPILE = """
from ecea.kernels import ahead_of_time as aot
print(aot.__file__)
print(aot.compile_kernel(90, aot.Problem(256, 4, 64, "fp16", 0.125), 5).sha256)
"""


def test_the_same_bytes_come_out_in_another_directory(tmp_path: Path) -> None:
    here = Path(aot.__file__).parent
    copy = tmp_path / "elsewhere" / "ecea" / "kernels"
    shutil.copytree(here, copy, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(copy.parent.parent), "TRITON_DEFAULT_FP_FUSION": "0"}
    command = [sys.executable, "-c", COMPILE]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    source, digest = done.stdout.split()
    assert Path(source).parent == copy
    assert digest == aot.compile_kernel(90, aot.Problem(256, 4, 64, "fp16", 0.125), 5).sha256


def test_compiling_leaves_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_DISABLE_LINE_INFO", raising=False)
    before = dict(os.environ)
    aot.compile_kernel(86, aot.Problem(64, 1, 64, "fp16", 0.5), 10)
    assert dict(os.environ) == before


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match="sm_75; expected one of 80"):
        aot.compile_kernel(75, LARGEST, 5)


def test_an_odd_head_is_refused() -> None:
    with pytest.raises(ValueError, match="a head has 48 channels; expected one of 16, 32, 64, 128"):
        aot.offered_tactics(90, aot.Problem(64, 1, 48, "fp16", 1.0))


def test_a_problem_that_nothing_fits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aot, "TACTICS", {7: TACTICS[7]})
    with pytest.raises(ValueError, match="no block shape fits"):
        aot.offered_tactics(90, LARGEST)


@pytest.mark.parametrize("queries", [4096 * 64, 64])
@pytest.mark.parametrize("tokens", [4096, 64])
@pytest.mark.parametrize("architecture", [80, 90, 120])
def test_what_pytorch_takes_fits_the_gpu(architecture: int, tokens: int, queries: int) -> None:
    """It may take more shared memory than a plugin, but not more than there is, and nothing may spill."""
    (number,) = (number for number, shape in TACTICS.items() if shape == preferred(architecture, tokens, queries))
    kernel = aot.compile_kernel(architecture, LARGEST, number)
    assert kernel.spill_bytes == 0
    assert kernel.blocks >= 1


def test_a_tactic_of_two_kernels_is_not_for_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    added, alone = Tactic(64, 32, 4, 2, "added"), Tactic(64, 32, 4, 2, "sum")
    monkeypatch.setattr(aot, "TACTICS", {100: added, 101: alone})
    assert aot.compile_kernel(90, LARGEST, 100).fits
    assert aot.offered_tactics(90, LARGEST) == [101]


def products(ptx_text: str) -> int:
    """Matrix instructions of the loop, which is not unrolled."""
    return len(re.findall(r"wgmma\.mma_async", ptx_text))


def test_one_product_less_where_the_sum_is_taken() -> None:
    """128 x 64 in eight warps: for each, four steps of 16 channels with the keys, four of 16 keys with the values."""
    counted = {
        shape.keys: products(aot.compile_kernel(90, LARGEST, n).ptx) for n, shape in TACTICS.items() if n in (7, 13, 27)
    }
    assert counted == {"products": 12, "sum": 8, "added": 8}


def test_the_next_keys_are_on_their_way_during_the_softmax() -> None:
    """In the sum's loop the loads of the next block stand before the exponentials, their sum behind them."""
    text = aot.compile_kernel(90, LARGEST, 13).ptx
    loop = text[text.index("wgmma.mma_async") : text.index("wgmma.wait_group.sync.aligned 0", text.index("ex2.approx"))]
    assert loop.rindex("ld.global.v4.b32") < loop.index("ex2.approx")
    assert loop.rindex("ex2.approx") < loop.index("add.f16x2"), "two at a time, not widened"
    assert "cvt.f32.f16" not in loop


def test_queries_that_are_held_are_not_read_again() -> None:
    """Their product takes the first operand from registers: four numbers in braces, not a descriptor."""
    held, shared = (aot.compile_kernel(90, LARGEST, number).ptx for number in (28, 27))
    first_operand = r"wgmma\.mma_async[^;]*\}, \{%r"
    assert len(re.findall(first_operand, held)) == 8
    assert len(re.findall(first_operand, shared)) == 4


def test_a_limit_of_registers_is_kept() -> None:
    kernel = aot.compile_kernel(90, LARGEST, 30)
    assert ".maxnreg 128" in kernel.ptx
    assert kernel.registers <= 128
    assert kernel.blocks == 2 > aot.compile_kernel(90, LARGEST, 29).blocks


def test_tactics_keep_their_numbers() -> None:
    """Timing caches and plans hold the numbers: add to this list, and change nothing in it."""
    limits = {19: 128, 26: 168, 30: 128, 31: 128, 37: 128}
    assert {number: t.max_registers for number, t in TACTICS.items() if t.max_registers} == limits
    assert [number for number, t in TACTICS.items() if t.hold_queries] == [25, 26, 28, 31, 34]
    shapes = {number: (t.block_m, t.block_n, t.num_warps, t.num_stages, t.keys) for number, t in TACTICS.items()}
    assert shapes == {
        1: (64, 64, 4, 1, "products"),
        2: (64, 32, 4, 2, "products"),
        3: (64, 64, 4, 2, "products"),
        4: (128, 32, 4, 2, "products"),
        5: (128, 32, 8, 2, "products"),
        6: (128, 64, 8, 1, "products"),
        7: (128, 64, 8, 2, "products"),
        8: (128, 64, 8, 3, "products"),
        9: (128, 128, 8, 2, "products"),
        10: (32, 32, 4, 2, "products"),
        11: (64, 32, 4, 3, "products"),
        12: (128, 64, 4, 2, "products"),
        13: (128, 64, 8, 2, "sum"),
        14: (128, 64, 4, 2, "sum"),
        15: (64, 64, 4, 2, "sum"),
        16: (64, 32, 4, 2, "sum"),
        17: (128, 128, 8, 2, "sum"),
        18: (128, 64, 4, 3, "products"),
        19: (128, 128, 8, 2, "products"),
        20: (32, 64, 2, 2, "products"),
        21: (16, 64, 1, 2, "products"),
        22: (128, 64, 4, 2, "added"),
        23: (128, 64, 4, 3, "added"),
        24: (128, 64, 4, 4, "added"),
        25: (128, 64, 4, 3, "added"),
        26: (128, 64, 4, 3, "added"),
        27: (128, 64, 8, 3, "added"),
        28: (128, 64, 8, 3, "added"),
        29: (128, 128, 8, 2, "added"),
        30: (128, 128, 8, 2, "added"),
        31: (128, 128, 8, 2, "added"),
        32: (128, 128, 4, 2, "added"),
        33: (64, 128, 4, 2, "added"),
        34: (64, 128, 4, 2, "added"),
        35: (64, 64, 4, 3, "added"),
        36: (256, 64, 8, 3, "added"),
        37: (128, 128, 8, 2, "sum"),
    }
