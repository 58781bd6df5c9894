"""What TensorBoard shows of a run: scalars by step, and a grid of pictures by epoch."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import image, scalar
from torch import Tensor

from ecea.runtime.errors import EceaError
from ecea.runtime.writer import WHY_NOT_WRITTEN
from ecea.training.data.tiles import Batch

_PICTURES = 6  # tiles in a grid
_LOGS = "logs"
_SECONDS_UNSEEN = 30  # that a point may wait for the disk


class Board:
    """Writes event files into ``logs`` of a run's folder, which is made with the first of them.

    Not with tensorboardX's ``SummaryWriter``: its thread dies of a full disk, and whoever has more to write then waits
    for ever.

    Args:
        folder: the run's.
        step: steps done so far; what an earlier run wrote beyond them is hidden.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._folder, self._step = folder / _LOGS, step
        self._events: EventsWriter | None = None
        self._flushed = time.monotonic()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each curve.

        Raises:
            EceaError: where it cannot be written.
        """
        with self._writing() as events:
            for name, value in values.items():
                events.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
            if time.monotonic() - self._flushed > _SECONDS_UNSEEN:
                self._flush(events)

    def pictures(self, name: str, batch: Batch, made: Tensor, made_edge: Tensor, step: int) -> None:
        """Add a grid: see :func:`picture_grid`.

        Raises:
            EceaError: where it cannot be written.
        """
        grid = image(name, picture_grid(batch, made, made_edge).numpy())
        with self._writing() as events:
            events.write_event(Event(wall_time=time.time(), step=step, summary=grid))
            self._flush(events)

    def close(self) -> None:
        """Write what is left."""
        if self._events is not None:
            with self._writing() as events:
                events.close()

    @contextmanager
    def _writing(self) -> Iterator[EventsWriter]:
        try:
            if self._events is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._events = EventsWriter(str(self._folder / "events"))
                begun = SessionLog(status=SessionLog.START)
                self._events.write_event(Event(wall_time=time.time(), step=self._step + 1, session_log=begun))
            yield self._events
        except OSError as error:
            self._events = None
            raise EceaError(
                f"{self._folder}: what TensorBoard shows cannot be written there ({error.strerror}): {WHY_NOT_WRITTEN}"
            ) from error

    def _flush(self, events: EventsWriter) -> None:
        events.flush()
        self._flushed = time.monotonic()


def picture_grid(batch: Batch, made: Tensor, made_edge: Tensor) -> Tensor:
    """Lay tiles side by side, and below one another what was published too.

    Rows: clean, its edges, with gaps (white), the edges made, the picture made; and the picture filled, as it is used.

    Returns:
        (3, 6 S, n S) float32 in [0, 1] on the CPU, of at most six tiles.
    """
    mask = batch["mask"]
    filled = batch["image"] + made * mask
    rows = (batch["target"], batch["target_edge"], batch["image"] + mask, made_edge, made, filled)
    return torch.cat([_row(tiles) for tiles in rows], dim=1)


def _row(tiles: Tensor) -> Tensor:
    """(B, 1 or 3, S, S) -> (3, S, n S)."""
    shown = tiles[:_PICTURES].detach().float().cpu().clamp(0, 1).expand(-1, 3, -1, -1)
    return torch.cat(list(shown), dim=2)
