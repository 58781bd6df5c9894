"""The TensorRT plugin ``ecea::ExpectationAttention``: the Triton kernel under the name of the exported ONNX node.

It is an ahead-of-time plugin: what goes into a plan is PTX, and neither Python nor Triton runs when the plan does.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from ecea.kernels.ahead_of_time import PTX_ISA, Problem, compile_kernel, offered_tactics

PLUGIN = "ecea::ExpectationAttention"

_Result = TypeVar("_Result")


class PluginError(RuntimeError):
    """A callback of the plugin failed while TensorRT built a plan."""


class Failures:
    """What the plugin's callbacks raised. TensorRT reports none of it: it goes on, or builds nothing."""

    def __init__(self) -> None:
        self.raised: list[BaseException] = []

    def record(self, callback: Callable[..., _Result]) -> Callable[..., _Result]:
        """Keep what ``callback`` raises, and raise it all the same."""

        @functools.wraps(callback)
        def recorded(*tensors: Any, **attributes: Any) -> _Result:
            try:
                return callback(*tensors, **attributes)
            except BaseException as error:  # an interrupt too, which comes as soon as any Python runs
                self.raised.append(error)
                raise

        return recorded

    def reraise(self) -> None:
        """After each build: forget all failures, and raise PluginError from the first, an interrupt as it is."""
        failures, self.raised = self.raised, []
        if failures and not isinstance(failures[0], Exception):
            raise failures[0]
        if failures:
            raise PluginError(f"the plugin {PLUGIN} failed: {failures[0]}") from failures[0]


@functools.cache
def register(architecture: int) -> Failures:
    """Make TensorRT take every node ``ecea::ExpectationAttention`` that it parses from now on for our kernel.

    Inputs are qkv (B, N, 3C), s and gate (B, N, C), the output is (B, N, C); all FP16 or all BF16, B dynamic or not, N
    and C static. Attributes are ``num_heads`` and ``scale``. A network in FP32 is to be built without the plugin.

    Args:
        architecture: of the GPU that will run the plan, ten times its compute capability.

    Returns:
        Where the callbacks' failures are found.

    Raises:
        ImportError: where TensorRT is not installed.
        ValueError: for an architecture that is not known, or after another one in the same process.
    """
    import tensorrt as trt
    import tensorrt.plugin as trtp

    if architecture not in PTX_ISA:
        raise ValueError(
            f"the GPU is sm_{architecture}; expected one of {', '.join(f'sm_{known}' for known in PTX_ISA)}"
        )
    failures = Failures()
    type_names = {trt.DataType.HALF: ("FP16", "fp16"), trt.DataType.BF16: ("BF16", "bf16")}

    def problem(gate: Any, num_heads: int, scale: float) -> Problem:
        if gate.dtype not in type_names:
            raise ValueError(
                f"its inputs are {gate.dtype}; expected HALF or BF16: build an FP32 plan without the plugin"
            )
        _, tokens, channels = gate.shape
        if tokens < 0 or channels < 0:
            raise ValueError(f"its inputs are {tuple(gate.shape)}; expected a fixed number of tokens and channels")
        return Problem(tokens, num_heads, channels // num_heads, type_names[gate.dtype][1], scale)

    # TensorRT reads the annotations, and compares the names of the arguments.
    @trtp.register(PLUGIN)  # type: ignore[untyped-decorator]
    @failures.record
    def describe(
        qkv: trtp.TensorDesc, s: trtp.TensorDesc, gate: trtp.TensorDesc, num_heads: int, scale: float
    ) -> trtp.TensorDesc:
        return gate.like()

    @trtp.autotune(PLUGIN)  # type: ignore[untyped-decorator]
    @failures.record
    def tactics(
        qkv: trtp.TensorDesc,
        s: trtp.TensorDesc,
        gate: trtp.TensorDesc,
        num_heads: int,
        scale: float,
        outputs: tuple[trtp.TensorDesc],
    ) -> list[trtp.AutoTuneCombination]:
        offered = offered_tactics(architecture, problem(gate, num_heads, scale))
        types = ",".join([type_names[gate.dtype][0]] * 4)
        return [trtp.AutoTuneCombination(types, "LINEAR", offered)]

    @trtp.aot_impl(PLUGIN)  # type: ignore[untyped-decorator]
    @failures.record
    def implement(
        qkv: trtp.TensorDesc,
        s: trtp.TensorDesc,
        gate: trtp.TensorDesc,
        num_heads: int,
        scale: float,
        outputs: tuple[trtp.TensorDesc],
        tactic: int,
    ) -> tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs]:
        kernel = compile_kernel(architecture, problem(gate, num_heads, scale), tactic)
        batch, tokens, _ = gate.shape_expr
        launch = trtp.KernelLaunchParams(
            grid_x=trtp.cdiv(tokens, kernel.block_m),
            grid_y=num_heads,
            grid_z=batch,
            block_x=kernel.threads,
            shared_mem=kernel.shared_bytes,
        )
        return kernel.name, kernel.ptx, launch, trtp.SymIntExprs(0)

    return failures
