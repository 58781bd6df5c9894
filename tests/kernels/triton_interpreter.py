"""A defect of Triton's interpreter, repaired for the tests: it multiplies bfloat16 as the integers it is stored as."""

from __future__ import annotations

from typing import Any

import numpy as np


def repair_bfloat16() -> None:
    """Make ``tl.dot`` take bfloat16 for the numbers that it stands for, in the process that calls this."""
    from triton.language import bfloat16, float32
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    as_it_was = InterpreterBuilder.create_dot

    def widened(operand: Any) -> Any:
        if operand.dtype.scalar != bfloat16:
            return operand
        bits = operand.data.astype(np.uint32) << 16  # the upper half of a float32
        return TensorHandle(bits.view(np.float32), float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return as_it_was(self, widened(a), widened(b), *rest)

    InterpreterBuilder.create_dot = create_dot
