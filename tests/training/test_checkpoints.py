"""The files of a run."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest
import torch

from ecea.runtime.errors import EceaError, RequestError
from ecea.training.checkpoints import Checkpoints


def test_a_full_disk_is_told_in_our_own_words(tmp_path: Path) -> None:
    """Short of one: no file may grow beyond 20 kB here. What PyTorch says of it names a line of its sources."""
    checkpoints = Checkpoints(tmp_path, resume=False)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(EceaError) as refused:
            checkpoints.save(1, {"weight": torch.zeros(10_000)}, None, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
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
