"""What is said while a step goes on."""

from __future__ import annotations

import time

import pytest

from ecea.export.say import timed


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_reader_that_has_gone_is_heard_of_once() -> None:
    """By who said the last line; the thread that says meanwhile that it goes on ends without a word."""
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError), timed(say, "a step", every=0.01):
        while not said:
            time.sleep(0.01)
    assert [line.partition(":")[0] for line in said] == ["a step", "a step"]
