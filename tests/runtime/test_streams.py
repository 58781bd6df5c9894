"""Several tiles at once: the same values, in the same order, and an end to all of it when something goes wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ecea.runtime import EceaError, Engine, RequestError, open_engine
from ecea.runtime.bundle import Bundle
from ecea.runtime.pipeline import FilledBatch, Progress, SceneRows, Strip, TileBatch, infer_tiles

Tensor = NDArray[np.float32]
Tensors = tuple[Tensor, Tensor, Tensor]

SIZE = 32
SECONDS = 10  # until something counts as hung


class Session:
    """Gives the image back, after ``work`` has seen its first value, and counts how many are in it at once."""

    arithmetic = "f32"

    def __init__(self, work: Callable[[float], object] = lambda value: None) -> None:
        self.work = work
        self.closed = False
        self.begun: list[float] = []
        self.inside = self.most = 0
        self._lock = threading.Lock()

    def infer(self, image: Tensor, edge: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        assert not self.closed
        with self._lock:
            self.begun.append(float(image.flat[0]))
            self.inside += 1
            self.most = max(self.most, self.inside)
        try:
            self.work(float(image.flat[0]))
        finally:
            with self._lock:
                self.inside -= 1
        assert not self.closed
        return image.copy(), edge.copy()

    def close(self) -> None:
        self.closed = True


def engine_on(session: Session, streams: int, size: int = SIZE) -> Engine:
    bundle = Bundle(Path("fake.ecea"), "0" * 64, {"img_size": size}, ())
    return Engine(session, bundle=bundle, found="test", engine="fp32", backend="fake", threads=4, streams=streams)


def tiles(*values: float, size: int = SIZE) -> Tensors:
    """A batch of tiles, each of one value."""
    column = np.array(values, np.float32)[:, None, None, None]
    image, mask = np.broadcast_to(column, (len(values), 3, size, size)), np.ones((len(values), 1, size, size))
    return image.astype(np.float32), mask.astype(np.float32), mask.astype(np.float32)


def noise(batch: int) -> Tensors:
    rng = np.random.default_rng(batch)
    image, edge, mask = (rng.random((batch, channels, SIZE, SIZE), np.float32) for channels in (3, 1, 1))
    return image, edge, (mask < 0.3).astype(np.float32)


# Real backends


@pytest.mark.parametrize("backend", ["cpu", "openvino"])
@pytest.mark.parametrize("streams", [2, 3])
def test_streams_change_no_value(streams: int, backend: str, tiny_bundle: Callable[..., Path]) -> None:
    pytest.importorskip({"cpu": "onnxruntime", "openvino": "openvino"}[backend])
    with open_engine(tiny_bundle(), backend=backend, threads=4, streams=streams) as engine:
        assert (engine.streams, engine.threads) == (streams, 4)
        for batch in range(1, 6):
            image, edge, mask = noise(batch)
            out, out_edge = engine.infer(image, edge, mask)
            assert out == pytest.approx(0.5 * image + 0.25 * mask, abs=1e-6)
            assert np.array_equal(out_edge, edge)


@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_many_batches_submitted_at_once_keep_to_their_own_results(
    backend: str, tiny_bundle: Callable[..., Path]
) -> None:
    pytest.importorskip({"cpu": "onnxruntime", "openvino": "openvino"}[backend])
    with open_engine(tiny_bundle(), backend=backend, threads=2, streams=2) as engine:
        futures = [engine.submit(*tiles(*[i / 40] * (1 + i % 3))) for i in range(40)]
        for i, future in enumerate(futures):
            out, _ = future.result(SECONDS)
            assert out == pytest.approx(np.full((1 + i % 3, 3, SIZE, SIZE), 0.5 * i / 40 + 0.25), abs=1e-6)


@pytest.mark.parametrize(("streams", "threads"), [(3, 2), (2, 1), (0, 2), (-1, 2)])
def test_more_streams_than_threads_are_refused(streams: int, threads: int, tiny_bundle: Callable[..., Path]) -> None:
    with pytest.raises(RequestError, match=rf"^{streams} streams cannot share {threads} threads?: expected 1"):
        open_engine(tiny_bundle(), backend="cpu", threads=threads, streams=streams)


# The engine


@pytest.mark.parametrize("streams", [1, 2, 3])
def test_as_many_run_at_once_as_there_are_streams(streams: int) -> None:
    """Each waits for all the others, so that nothing comes out unless they overlap."""
    meeting = threading.Barrier(streams)
    session = Session(lambda value: meeting.wait(SECONDS))
    with engine_on(session, streams) as engine:
        values = np.arange(2 * streams) / 10
        futures = [engine.submit(*tiles(value)) for value in values]
        assert [future.result(SECONDS)[0].flat[0] for future in futures] == pytest.approx(values)
    assert session.most == streams


@pytest.mark.parametrize("batch", [2, 3, 5])
def test_a_batch_is_shared_by_the_streams(batch: int) -> None:
    meeting = threading.Barrier(2)
    with engine_on(Session(lambda value: meeting.wait(SECONDS)), 2) as engine:
        values = [i / 10 for i in range(batch)]
        out, out_edge = engine.infer(*tiles(*values))
    assert (out.shape, out_edge.shape) == ((batch, 3, SIZE, SIZE), (batch, 1, SIZE, SIZE))
    assert out[:, 0, 0, 0] == pytest.approx(values)


def test_batches_begin_in_the_order_in_which_they_are_submitted() -> None:
    session = Session(lambda value: time.sleep(0.002))
    values = [i / 64 for i in range(20)]
    with engine_on(session, 1) as engine:
        for future in [engine.submit(*tiles(value)) for value in values]:
            future.result(SECONDS)
    assert session.begun == values


def fail_on(wrong: float) -> Callable[[float], None]:
    def work(value: float) -> None:
        if value == wrong:
            raise RuntimeError("out of something")

    return work


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_an_error_in_any_stream_comes_out(wrong: int) -> None:
    """Three streams and three tiles: whichever fails."""
    with engine_on(Session(fail_on(wrong)), 3) as engine:
        with pytest.raises(EceaError, match="fake failed on a batch of 1: out of something"):
            engine.infer(*tiles(0, 1, 2))
        out, _ = engine.infer(*tiles(5, 6))  # and the engine goes on
        assert out[:, 0, 0, 0].tolist() == [5, 6]


@pytest.mark.parametrize(("name", "length"), [("edge", 1), ("mask", 3), ("edge", 4)])
def test_wrong_inputs_are_told_as_they_were_given(name: str, length: int) -> None:
    """Not as the streams would have shared them; and none of them is run."""
    session = Session()
    given_ = dict(zip(("image", "edge", "mask"), tiles(0, 0), strict=True))
    given_[name] = np.zeros((length, 1, SIZE, SIZE), np.float32)
    with (
        engine_on(session, 2) as engine,
        pytest.raises(RequestError, match=rf"'{name}' is float32 of shape \({length}, 1, .*expected .* \(2, 1, "),
    ):
        engine.infer(**given_)
    assert session.begun == []


# Closing


class Blocked:
    """Work that goes on until it is let go."""

    def __init__(self) -> None:
        self.running, self.let_go = threading.Event(), threading.Event()

    def __call__(self, value: float) -> None:
        self.running.set()
        assert self.let_go.wait(SECONDS)


def test_closing_waits_for_what_runs_and_cancels_what_has_not_begun() -> None:
    work = Blocked()
    session = Session(work)
    engine = engine_on(session, 1)
    first, second = (engine.submit(*tiles(value)) for value in (1, 2))
    assert work.running.wait(SECONDS)
    closing = threading.Thread(target=engine.close)
    closing.start()
    with pytest.raises(CancelledError):
        second.result(SECONDS)
    with pytest.raises(EceaError, match="the engine is closed"):
        engine.result(second)
    # While it waits, it takes nothing more, and says so.
    with pytest.raises(EceaError, match="the engine is closed"):
        engine.submit(*tiles(3))
    with pytest.raises(EceaError, match="the engine is closed"):
        engine.infer(*tiles(3))
    assert not session.closed  # a backend would free what it computes with
    work.let_go.set()
    closing.join(SECONDS)
    assert not closing.is_alive()
    assert session.closed
    assert first.result()[0].flat[0] == 1
    assert session.begun == [1]


def test_a_closed_engine_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    with engine_on(Session(), 3) as engine:
        engine.infer(*tiles(1, 2, 3))
        own = set(threading.enumerate()) - before
        assert own
    assert not own & set(threading.enumerate())


# The stage of the pipeline


def strip(number: int) -> Strip:
    empty = np.zeros((3, 0, 0), bool)
    return Strip(SceneRows(number, empty, empty[0], empty, empty), 0)


def batch(number: int, size: int = 4) -> TileBatch:
    return TileBatch((number,), *tiles(number, size=size))


def told(items: Iterator[FilledBatch | Strip]) -> Iterator[tuple[str, int]]:
    """What comes out; a batch by its column, which must be the value of its tile."""
    for item in items:
        if isinstance(item, Strip):
            yield "strip", item.rows.top
        else:
            assert (item.out == item.columns[0]).all()
            yield "batch", item.columns[0]


@settings(max_examples=30)
@given(
    kinds=st.lists(st.sampled_from(["batch", "batch", "strip"]), max_size=20),
    streams=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_order_is_kept_however_long_batches_take(kinds: list[str], streams: int, seed: int) -> None:
    naps = np.random.default_rng(seed).choice([0, 0, 0.001, 0.004], 20)
    progress = Progress()
    items = [batch(i) if kind == "batch" else strip(i) for i, kind in enumerate(kinds)]
    with engine_on(Session(lambda value: time.sleep(naps[int(value)])), streams, size=4) as engine:
        assert list(told(infer_tiles(iter(items), engine, progress))) == [(kind, i) for i, kind in enumerate(kinds)]
    assert progress.tiles_run == kinds.count("batch")


@pytest.mark.parametrize("streams", [1, 2, 3])
def test_the_streams_are_kept_busy(streams: int) -> None:
    meeting = threading.Barrier(streams)
    with engine_on(Session(lambda value: meeting.wait(SECONDS)), streams, size=4) as engine:
        items = (batch(i) for i in range(2 * streams))
        assert [number for _, number in told(infer_tiles(items, engine, Progress()))] == list(range(2 * streams))


@pytest.mark.parametrize("streams", [1, 2, 3])
def test_no_more_batches_are_taken_than_one_beyond_the_streams(streams: int) -> None:
    """What is taken is held in memory."""
    taken: list[int] = []
    work = Blocked()
    work.let_go.set()

    def items() -> Iterator[TileBatch | Strip]:
        for i in range(20):
            taken.append(i)
            yield batch(i)

    with engine_on(Session(work), streams, size=4) as engine:
        for done, _ in enumerate(infer_tiles(items(), engine, Progress())):
            assert len(taken) - done <= streams + 1


def test_closing_early_cancels_what_has_not_begun() -> None:
    work = Blocked()
    session = Session(lambda value: work(value) if value == 9 else None)
    with engine_on(session, 1, size=4) as engine:

        def items() -> Iterator[TileBatch | Strip]:
            yield batch(0)
            engine.submit(*tiles(9, size=4))  # occupies the stream, so that the next has to wait
            yield batch(1)

        results = infer_tiles(items(), engine, Progress())
        assert next(told(results)) == ("batch", 0)
        results.close()  # type: ignore[attr-defined]
        work.let_go.set()
        engine.infer(*tiles(5, size=4))
    assert session.begun == [0, 9, 5]


@pytest.mark.parametrize("wrong", [0, 3])
def test_an_error_ends_the_stage_and_cancels_the_rest(wrong: int) -> None:
    session = Session(fail_on(wrong))
    with engine_on(session, 2, size=4) as engine:
        results = told(infer_tiles((batch(i) for i in range(20)), engine, Progress()))
        with pytest.raises(EceaError, match="out of something"):
            list(results)
    assert len(session.begun) <= wrong + 4


def test_an_error_of_the_source_cancels_what_was_started() -> None:
    def broken() -> Iterator[TileBatch | Strip]:
        yield batch(0)
        raise ValueError("edges")

    work = Blocked()
    session = Session(work)
    with engine_on(session, 1, size=4) as engine:
        engine.submit(*tiles(9, size=4))
        with pytest.raises(ValueError, match="edges"):
            list(infer_tiles(broken(), engine, Progress()))
        work.let_go.set()
        engine.infer(*tiles(5, size=4))
    assert session.begun == [9, 5]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux shows them")
@pytest.mark.parametrize(("threads", "streams"), [(1, 1), (4, 1), (4, 2), (5, 2), (6, 3)])
def test_onnx_runtime_computes_on_as_many_threads_as_asked(tiny_bundle, threads, streams):
    """Those of the session, which all streams share, and one for each stream."""
    tasks = Path("/proc/self/task")
    bundle = tiny_bundle()
    open_engine(bundle, backend="cpu", threads=1, streams=1).close()  # which starts what is started once for all
    before = len(list(tasks.iterdir()))
    with open_engine(bundle, backend="cpu", threads=threads, streams=streams):
        started = len(list(tasks.iterdir())) - before
    assert started + streams == threads
