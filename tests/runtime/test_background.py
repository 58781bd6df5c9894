"""A stage in a thread of its own: order, bound, errors, and that it always ends."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecea.runtime.background import in_background

NAME = "ecea-test"


class SourceError(Exception):
    pass


class ConsumerError(Exception):
    pass


def alive():
    return [thread for thread in threading.enumerate() if thread.name == NAME]


class Counted:
    """Counts what is taken of a generator over ``range(count)``, and remembers the thread that it was closed in."""

    def __init__(self):
        self.taken = 0
        self.closed_in = None

    def items(self, count, error_at=None):
        try:
            for item in range(count):
                if item == error_at:
                    raise SourceError(f"at {item}")
                self.taken += 1
                yield item
        finally:
            self.closed_in = threading.current_thread().name


def source(count, error_at=None):
    counted = Counted()
    return counted, counted.items(count, error_at)


@settings(max_examples=30)
@given(st.integers(0, 40), st.integers(1, 5))
def test_items_come_in_order_and_all_of_them(count, ahead):
    with in_background(iter(range(count)), ahead=ahead, name=NAME) as items:
        assert list(items) == list(range(count))
    assert not alive()


def test_the_source_runs_in_a_thread_of_its_name():
    with in_background((threading.current_thread().name for _ in range(1)), ahead=1, name=NAME) as items:
        assert list(items) == [NAME]


@pytest.mark.parametrize("ahead", [1, 3])
def test_the_source_is_never_further_ahead_than_told(ahead):
    counted, items = source(60)
    with in_background(items, ahead=ahead, name=NAME) as consumed:
        for done, _ in enumerate(consumed):
            if done % 10 == 0:
                time.sleep(0.02)  # time to run ahead, if it could
            # One is with the consumer, one waits for room.
            assert counted.taken <= done + 1 + ahead + 1
    assert counted.taken == 60


def test_the_source_does_run_ahead():
    counted, items = source(60)
    with in_background(items, ahead=4, name=NAME) as consumed:
        next(consumed)
        deadline = time.monotonic() + 2
        while counted.taken < 5 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert counted.taken >= 5


@pytest.mark.parametrize("error_at", [0, 1, 7])
def test_an_error_of_the_source_is_raised_where_its_items_are_consumed(error_at):
    counted, items = source(20, error_at=error_at)
    seen = []
    with pytest.raises(SourceError, match=f"at {error_at}"), in_background(items, ahead=2, name=NAME) as consumed:
        for item in consumed:
            seen.append(item)
    assert seen == list(range(error_at))
    assert counted.closed_in == NAME
    assert not alive()


def test_an_error_while_the_source_closes_is_raised_too():
    class Source:
        """Not a generator: closing it is more than ending it."""

        def __init__(self):
            self.items = iter([1, 2])

        def __iter__(self):
            return self

        def __next__(self):
            return next(self.items)

        def close(self):
            raise SourceError("in close")

    with pytest.raises(SourceError, match="in close"), in_background(Source(), ahead=1, name=NAME) as consumed:
        list(consumed)
    assert not alive()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_errors_of_every_kind_cross_the_threads(error):
    def failing():
        yield 1
        raise error

    with pytest.raises(error), in_background(failing(), ahead=1, name=NAME) as consumed:
        list(consumed)
    assert not alive()


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_leaving_early_stops_the_thread_and_closes_the_source(taken):
    counted, items = source(1_000_000)
    with in_background(items, ahead=2, name=NAME) as consumed:
        for _ in range(taken):
            next(consumed)
    assert not alive()
    assert counted.closed_in == NAME
    assert counted.taken <= taken + 4


def test_an_error_of_the_consumer_stops_the_thread_and_is_the_one_raised():
    counted, items = source(1_000_000)
    with pytest.raises(ConsumerError), in_background(items, ahead=2, name=NAME) as consumed:
        next(consumed)
        raise ConsumerError
    assert not alive()
    assert counted.closed_in == NAME


def test_an_endless_chain_ends_from_its_last_link():
    first, items = source(1_000_000)
    with (
        in_background(items, ahead=1, name=NAME) as one,
        in_background((item + 1 for item in one), ahead=1, name=NAME) as two,
        in_background((item * 2 for item in two), ahead=1, name=NAME) as three,
    ):
        assert [next(three), next(three)] == [2, 4]
    assert not alive()
    assert first.closed_in == NAME


def test_an_error_at_the_start_of_a_chain_reaches_its_end():
    _, items = source(20, error_at=3)
    seen = []
    with (
        pytest.raises(SourceError),
        in_background(items, ahead=1, name=NAME) as one,
        in_background((item + 1 for item in one), ahead=1, name=NAME) as two,
    ):
        for item in two:
            seen.append(item)
    assert seen == [1, 2, 3]
    assert not alive()


def test_a_source_without_close_will_do():
    with in_background(iter([1, 2]), ahead=1, name=NAME) as consumed:
        assert next(consumed) == 1
    assert not alive()
