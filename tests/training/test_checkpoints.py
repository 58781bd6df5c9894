"""The files of a run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

from ecea.runtime.errors import EceaError, RequestError
from ecea.training.checkpoints import Checkpoints

Limit = Callable[[int], AbstractContextManager[None]]


def test_a_full_disk_is_told_in_our_own_words(tmp_path: Path, files_of_at_most: Limit) -> None:
    """What PyTorch says of it names a line of its sources."""
    checkpoints = Checkpoints(tmp_path, resume=False)
    with files_of_at_most(20_000), pytest.raises(EceaError) as refused:
        checkpoints.save(1, {"weight": torch.zeros(10_000)}, None, {})
    assert str(refused.value) == (
        f"{tmp_path / 'G_1.pth'}: cannot be written (PyTorch could not finish it): is the disk full, or no file "
        "allowed there?"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["G_2.pth", "U_2.pth"])
def test_checkpoints_that_nothing_can_be_resumed_from_are_not_written_over(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(RequestError, match=rf"holds {name} and no training\.pth, .*\(--start-from .*{name}\)"):
        Checkpoints(tmp_path, resume=False)
