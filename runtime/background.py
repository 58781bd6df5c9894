"""Running one stage of a pipeline in a thread of its own."""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.1  # how soon a stage that waits for room notices that it is to stop


class _End:
    """What a stage puts last: that it is done, or the error that ended it."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Background(Generic[T]):
    def __init__(self, source: Iterator[T], ahead: int, name: str) -> None:
        self._source = source
        self._queue: queue.Queue[T | _End] = queue.Queue(ahead)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        while True:
            item = self._queue.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            try:
                for item in self._source:
                    if not self._put(item):
                        break
            finally:
                close = getattr(self._source, "close", None)  # a generator releases what it holds in its own thread
                if close is not None:
                    close()
        except BaseException as caught:  # handed on to the thread that consumes, whatever it is
            error = caught
        self._put(_End(error))

    def _put(self, item: "T | _End") -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False


@contextmanager
def in_background(source: Iterator[T], *, ahead: int, name: str) -> Iterator[Iterator[T]]:
    """Iterate ``source`` in a thread, at most ``ahead`` items before the consumer.

    An exception in ``source`` is raised where its items are consumed. Leaving the ``with`` block, for whatever
    reason, stops the thread after the item that it is at and closes ``source``; nothing is left running.
    """
    stage = _Background(source, ahead, name)
    try:
        yield iter(stage)
    finally:
        stage.stop()
