"""PTX as text: what a kernel's entry takes, without the parameters that Triton adds for itself.

Triton appends two 64-bit parameters to every kernel, pointers to scratch memory for its own runtime. TensorRT passes
what the plugin declares and nothing else, so they have to go; this is sound where the kernel never reads them.
"""

import re
from typing import NamedTuple

_ENTRY = re.compile(r"\.visible\s+\.entry\s+(?P<name>[\w$]+)\s*\((?P<parameters>[^)]*)\)")
_PARAMETER = re.compile(r"\s*\.param\s+\.(?P<type>[a-z]\d+)\b.*?(?P<name>[\w$]+)\s*", re.DOTALL)
_SCRATCH = ["u64", "u64"]


class PtxError(ValueError):
    """PTX that is not what the plugin needs."""


class Parameter(NamedTuple):
    type: str
    name: str


class Entry(NamedTuple):
    """The one kernel of a PTX module."""

    name: str
    parameters: list[Parameter]


def entry(ptx: str) -> Entry:
    """The kernel's name and its parameters in order; PtxError unless the module holds exactly one kernel."""
    match = _only_entry(ptx)
    parameters = []
    for declaration in filter(str.strip, match["parameters"].split(",")):
        found = _PARAMETER.fullmatch(declaration)
        if found is None:
            raise PtxError(f"the parameter {declaration.strip()!r} is none that is known here; expected a plain number")
        parameters.append(Parameter(found["type"], found["name"]))
    return Entry(match["name"], parameters)


def strip_scratch(ptx: str, expected: list[str]) -> str:
    """Remove the two scratch pointers from the end of the parameters.

    Args:
        ptx: a module with one kernel.
        expected: the types of the parameters that stay, such as ``["u64", "u32", "u64"]``.

    Returns:
        The module with exactly the expected parameters. The machine code that it assembles to is the same.

    Raises:
        PtxError: if the parameters are not those and two pointers more, or if the kernel reads either of the two.
    """
    match = _only_entry(ptx)
    parameters = entry(ptx).parameters
    types = [parameter.type for parameter in parameters]
    if types != expected + _SCRATCH:
        raise PtxError(f"the kernel's parameters are {types}; expected {expected} and Triton's own {_SCRATCH}")
    body = ptx[match.end() :]
    for _, name in parameters[len(expected) :]:
        if re.search(rf"{re.escape(name)}(?![\w$])", body):
            raise PtxError(f"the kernel reads its scratch memory ({name}), which TensorRT cannot give it")
    kept = match["parameters"].split(",")[: len(expected)]
    start, end = match.span("parameters")
    return ptx[:start] + ",".join(kept) + "\n" + ptx[end:]


def required_threads(ptx: str) -> int:
    """The number of threads in a block that the kernel was compiled for, its ``.reqntid``; PtxError if it has none."""
    match = re.search(r"^\.reqntid\s+(\d+)", ptx, re.MULTILINE)
    if match is None:
        raise PtxError("the kernel has no .reqntid; expected the number of threads that it was compiled for")
    return int(match[1])


def target(ptx: str) -> str:
    """The architecture that the module is for, such as ``sm_90a``."""
    match = re.search(r"^\.target\s+(\w+)", ptx, re.MULTILINE)
    if match is None:
        raise PtxError("the module has no .target; expected a whole PTX module")
    return match[1]


def _only_entry(ptx: str) -> re.Match[str]:
    found = list(_ENTRY.finditer(ptx))
    if len(found) != 1:
        raise PtxError(f"the module holds {len(found)} kernels; expected one")
    return found[0]
