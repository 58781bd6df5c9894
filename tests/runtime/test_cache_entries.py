"""An entry of the cache appears whole or not at all, and only what is the cache's own is ever deleted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ecea.runtime.cache import entry_for


def fill(cache: Path, model: Path, content: str) -> None:
    with entry_for(model, content, cache, "compiler") as entry:
        assert entry is not None
        (entry.folder / "compiled").write_text(content)


def names(cache: Path) -> set[str]:
    return {path.read_text() for path in cache.glob("*/compiled")}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"a model")
    return path


def test_the_six_used_last_are_kept(cache: Path, model: Path) -> None:
    for number in range(6):
        fill(cache, model, str(number))
        (entry,) = (path.parent for path in cache.glob("*/compiled") if path.read_text() == str(number))
        os.utime(entry, (number, number))
    fill(cache, model, "0")  # used again
    fill(cache, model, "6")
    assert names(cache) == {"0", "2", "3", "4", "5", "6"}
    fill(cache, model, "7")
    assert names(cache) == {"0", "3", "4", "5", "6", "7"}


def test_what_else_lies_there_is_left_alone(cache: Path, model: Path) -> None:
    """Somebody may name a folder that holds all their work."""
    precious = [cache / f"work {number}" / "thesis.txt" for number in range(9)] + [cache / ".git" / "HEAD"]
    for path in precious:
        path.parent.mkdir(parents=True)
        path.write_text("years of it")
        os.utime(path.parent, (1, 1))
    for number in range(8):
        fill(cache, model, str(number))
    assert all(path.read_text() == "years of it" for path in precious)
    assert len(names(cache)) == 6


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError, MemoryError])
def test_nothing_half_made_is_left_by_an_exception(error: type[BaseException], cache: Path, model: Path) -> None:
    def interrupted() -> None:
        with entry_for(model, "", cache, "compiler") as entry:
            assert entry is not None
            (entry.folder / "compiled").write_text("half of it")
            raise error

    if error is RuntimeError:
        interrupted()  # the compiler's own: it is asked again, without a cache
    else:
        with pytest.raises(error):
            interrupted()
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_entry_outlives_an_exception_that_is_not_its_fault(
    error: type[BaseException], cache: Path, model: Path
) -> None:
    fill(cache, model, "whole")
    with pytest.raises(error), entry_for(model, "whole", cache, "compiler"):
        raise error
    assert names(cache) == {"whole"}


KILLED = """
import os, signal, sys
from pathlib import Path
from ecea.runtime.cache import entry_for

with entry_for(Path(sys.argv[1]), "killed", Path(sys.argv[2]), "compiler") as entry:
    (entry.folder / "compiled").write_text("half of it")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_never_read_and_goes_in_the_end(cache: Path, model: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, model, cache], timeout=60)
    assert done.returncode == -signal.SIGKILL
    (left,) = cache.iterdir()
    with entry_for(model, "killed", cache, "compiler") as entry:
        assert entry is not None
        assert list(entry.folder.iterdir()) == []
        (entry.folder / "compiled").write_text("whole")
    assert left.exists()  # for all we know, somebody is at it
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(left, (two_days_ago, two_days_ago))
    fill(cache, model, "another")
    assert not left.exists()
    assert names(cache) == {"whole", "another"}


def test_of_two_that_compile_at_once_one_publishes(cache: Path, model: Path) -> None:
    with entry_for(model, "", cache, "compiler") as slower:
        assert slower is not None
        (slower.folder / "compiled").write_text("slower")
        fill(cache, model, "")
        (faster,) = cache.glob("[!.]*")
    assert [path.name for path in cache.iterdir()] == [faster.name]
    assert (faster / "compiled").read_text() == ""


def test_an_entry_of_nothing_is_not_kept(cache: Path, model: Path) -> None:
    """OpenVINO says nothing where the disk is full: it leaves no file."""
    with entry_for(model, "", cache, "compiler") as entry:
        assert entry is not None
    assert list(cache.iterdir()) == []
