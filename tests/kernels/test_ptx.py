"""Stripping Triton's own parameters from PTX, and refusing to where they are read."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ecea.kernels import ptx

MODULE = """
.version 8.0
.target sm_80
.address_size 64
.visible .entry attend(
	.param .u64 .ptr .global .align 1 attend_param_0,
	.param .u32 attend_param_1,
	.param .u64 .ptr .global .align 1 attend_param_2,
	.param .u64 .ptr .global .align 1 attend_param_3
)
.reqntid 128
{
	.reg .b64 %rd<3>;
	.reg .b32 %r<2>;
	ld.param.b64 %rd1, [attend_param_0];
	ld.param.b32 %r1, [attend_param_1];
	st.global.b32 [%rd1], %r1;
	ret;
}
"""


def test_the_entry_and_what_it_takes() -> None:
    found = ptx.entry(MODULE)
    assert found.name == "attend"
    assert [parameter.type for parameter in found.parameters] == ["u64", "u32", "u64", "u64"]
    assert found.parameters[1].name == "attend_param_1"
    assert ptx.required_threads(MODULE) == 128
    assert ptx.target(MODULE) == "sm_80"


def test_scratch_pointers_go_and_nothing_else() -> None:
    stripped = ptx.strip_scratch(MODULE, ["u64", "u32"])
    assert ptx.entry(stripped).parameters == ptx.entry(MODULE).parameters[:2]
    assert stripped.split(".reqntid")[1] == MODULE.split(".reqntid")[1]


@pytest.mark.parametrize(
    ("module", "expected", "message"),
    [
        (
            MODULE.replace("ret;", "ld.param.b64 %rd2, [attend_param_3];\nret;"),
            ["u64", "u32"],
            "reads its scratch memory",
        ),
        (MODULE, ["u64", "u64"], r"are \['u64', 'u32', 'u64', 'u64'\]; expected \['u64', 'u64'\]"),
        (MODULE, ["u64", "u32", "u64"], "expected"),
        (MODULE.replace(".visible .entry", ".func"), ["u64", "u32"], "holds 0 kernels"),
        (MODULE + MODULE, ["u64", "u32"], "holds 2 kernels"),
        (MODULE.replace(".param .u32", ".param .align 64 .b8"), ["u64", "u32"], "is none that is known here"),
    ],
)
def test_anything_else_is_refused(module: str, expected: list[str], message: str) -> None:
    with pytest.raises(ptx.PtxError, match=message):
        ptx.strip_scratch(module, expected)


def test_a_name_that_begins_like_a_parameter_is_another() -> None:
    ptx.strip_scratch(MODULE.replace("ret;", "// attend_param_30\nret;"), ["u64", "u32"])


def test_a_module_without_its_directives_is_refused() -> None:
    with pytest.raises(ptx.PtxError, match=r"no \.reqntid"):
        ptx.required_threads(MODULE.replace(".reqntid", "// .reqntid"))
    with pytest.raises(ptx.PtxError, match=r"no \.target"):
        ptx.target("")


def test_the_machine_code_is_the_same_without_them(tmp_path: Path) -> None:
    """What Triton compiles, assembled with and without the two parameters."""
    aot = pytest.importorskip("ecea.kernels.ahead_of_time", reason="Triton is not installed")
    stripped = aot.compile_kernel(80, aot.Problem(256, 4, 64, "fp16", 0.125), 5).ptx
    last = ptx.entry(stripped).parameters[-1].name
    own = "".join(f",\n.param .u64 .ptr .global .align 1 {last}_scratch{n}" for n in (0, 1))
    whole = stripped.replace(f" {last}\n", f" {last}{own}\n", 1)
    assert ptx.strip_scratch(whole, aot.PARAMETER_TYPES) != whole
    assert machine_code(whole, tmp_path) == machine_code(stripped, tmp_path)


def machine_code(module: str, directory: Path) -> bytes:
    from triton import knobs

    source, made = directory / "kernel.ptx", directory / "kernel.cubin"
    source.write_text(module)
    command = [knobs.nvidia.ptxas.path, f"--gpu-name={ptx.target(module)}", source, "-o", made]
    subprocess.run(command, check=True)
    listing = subprocess.run([knobs.nvidia.cuobjdump.path, "-sass", made], capture_output=True, check=True).stdout
    assert b"HMMA" in listing
    return listing
