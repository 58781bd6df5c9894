"""Running every form of an engine where it will run, before the bundle that holds it exists."""

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ecea.export.forms import Form
from ecea.export.parity import ParityError, RunError, Tiles, compare
from ecea.export.say import Say
from ecea.model import Generator, UNet
from ecea.runtime.backends import BACKENDS, Session, Settings
from ecea.runtime.backends.openvino import BFLOAT16, FLOAT32, native_arithmetic
from ecea.runtime.engine import usable_processors
from ecea.runtime.errors import BackendUnavailable, EceaError

# Engines whose forms may compute in less than float32 where the processor has that.
_MAY_ROUND = ("fp16", "int8")

# What bfloat16 may cost an INT8 engine that is below its target already.
_TOLERATED_DB = 0.5

_TIMED_ROUNDS = 3


class Checker:
    """Compares forms with PyTorch, and tells how fast they are.

    Args:
        folder: where the forms have been written.
        network: the reference, for its speed.
        tiles: to compare on.
        expected: what the reference makes of them.
        say: called with a line for each comparison.
    """

    def __init__(
        self, folder: Path, network: Generator | UNet, tiles: Tiles, expected: dict[str, np.ndarray], say: Say
    ) -> None:
        self._folder = folder
        self._network = network
        self._tiles = tiles
        self._expected = expected
        self._say = say

    def __call__(
        self, form: Form, quantization: dict[str, Any] | None
    ) -> tuple[tuple[dict[str, Any], ...], tuple[str, ...]]:
        """Compare a form on every backend that it is checked on, in every arithmetic of this processor.

        Args:
            form: which one.
            quantization: its record, where it is quantized.

        Returns:
            What was measured, an entry for each backend, arithmetic and output; and the arithmetics that are good
            enough, the fastest first.

        Raises:
            ParityError: where it is out of tolerance in float32, or does not run on a processor.
            EceaError: where a processor's backend does not take it.
        """
        entries = []
        good = [FLOAT32]
        for backend in form.checked_on:
            in_float32 = self._measure(form, backend, FLOAT32)
            entries += in_float32
            if not in_float32 or backend != "openvino" or form.engine not in _MAY_ROUND:
                continue
            if BFLOAT16 not in native_arithmetic():
                continue
            try:
                rounded = self._measure(form, backend, BFLOAT16)
            except ParityError as error:
                self._say(f"{form.engine:<11} bf16 is not used: {error.finding}")
                continue
            if quantization is None or _is_as_good(rounded, in_float32, quantization["target_db"]):
                entries += rounded
                good.insert(0, BFLOAT16)
        return tuple(entries), tuple(good)

    def _measure(self, form: Form, backend: str, arithmetic: str) -> list[dict[str, Any]]:
        where = f"{form.file_name} on {backend}" + (f" in {arithmetic}" if arithmetic != FLOAT32 else "")
        settings = Settings(usable_processors(), arithmetic=(arithmetic,), engine=form.engine)
        path = self._folder / form.file_name
        try:
            with closing(BACKENDS[backend].load(path, settings)) as session:
                measured = list(compare(session, form.engine, where, self._tiles, self._expected))
                speed = self._speed(session)
        except EceaError as error:
            if not _goes_on(backend, error):
                raise
            why = error.finding if isinstance(error, ParityError) else str(error)
            why = " ".join(why.removeprefix(f"{path}: ").removeprefix(f"{where}: ").split())
            self._say(f"{form.engine:<11} {where}: not compared, {why}")
            return []
        for entry in measured:
            self._say(
                f"{form.engine:<11} {where}: '{entry['output']}' within {entry['max_error']:.1e} of PyTorch "
                f"({entry['psnr_db']:.0f} dB)"
            )
        known = {"backend": backend, "arithmetic": session.arithmetic}
        return [{**known, "times_pytorch": speed, **entry} for entry in measured]

    def _speed(self, session: Session) -> float:
        """How many times as fast as PyTorch a tile is, of runs in turn."""
        inputs = tuple(np.ascontiguousarray(part) for part in self._tiles.one(0))
        tensors = tuple(map(torch.from_numpy, inputs))
        ratios = []
        for _ in range(_TIMED_ROUNDS):
            begin = time.perf_counter()
            with torch.inference_mode():
                self._network(*tensors)
            between = time.perf_counter()
            session.infer(*inputs)
            ratios.append((between - begin) / (time.perf_counter() - between))
        return round(float(np.median(ratios)), 2)


def _goes_on(backend: str, error: EceaError) -> bool:
    """Whether an export goes on without a comparison: not where it was made, and not where a processor fails.

    A GPU that others have filled, or a provider that does not take the model, is no fault of the bundle's: nobody has
    asked for them.
    """
    if isinstance(error, ParityError) and not isinstance(error, RunError):
        return False
    return backend == "cuda" or isinstance(error, BackendUnavailable)


def _is_as_good(rounded: list[dict[str, Any]], exact: list[dict[str, Any]], target_db: float) -> bool:
    """Whether an INT8 engine is within its target in bfloat16 too; where float32 is not, whether it is hardly worse."""
    in_bfloat16, in_float32 = rounded[0]["missing_psnr_db"], exact[0]["missing_psnr_db"]
    return bool(in_bfloat16 >= (target_db if in_float32 >= target_db else in_float32 - _TOLERATED_DB))
