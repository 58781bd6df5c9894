"""The pipeline as it runs: bounded memory, bounded queues, and an end to every stage when one fails."""

import threading
import time
import tracemalloc

import numpy as np
import pytest

from ecea.runtime.errors import EceaError
from ecea.runtime.pipeline import Progress, SceneRows, fill_rows
from ecea.runtime.stretch import Stretch
from ecea.runtime.tiles import covering_grid

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def long_scene(height, width=64, chunk=128):
    """Rows of a scene with stripes, made as they are asked for."""
    for top in range(0, height, chunk):
        count = min(chunk, height - top)
        rng = np.random.default_rng(top)
        bands = rng.integers(1, 1000, (3, count, width)).astype(np.uint16)
        missing = np.zeros((count, width), bool)
        missing[::20] = True
        fill = np.broadcast_to(missing, (3, count, width))
        yield SceneRows(top, bands, missing, fill, ~fill)


def test_memory_does_not_grow_with_the_height_of_the_scene(engine_of, recipe_of):
    def peak(height):
        recipe = recipe_of(covering_grid(height, 64, 64, 8), to_values=lambda unit, position: unit.astype(np.uint16))
        progress = Progress()
        tracemalloc.start()
        try:
            with fill_rows(
                long_scene(height),
                engine=engine_of(0.5, 64),
                recipe=recipe,
                height=height,
                width=64,
                batch=1,
                progress=progress,
            ) as parts:
                assert sum(part.filled for part in parts) == 64 * sum(
                    -(-min(128, height - top) // 20) for top in range(0, height, 128)
                )
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(300)  # what is allocated once
    # Ten times the rows; how full the queues get is chance.
    assert peak(20_000) < 1.3 * peak(2_000)


def test_no_stage_runs_far_ahead_of_one_that_stalls(engine_of, recipe_of):
    height, size, read = 10_000, 64, []

    def counted():
        for rows in long_scene(height, chunk=16):
            read.append(rows.top)
            yield rows

    recipe = recipe_of(covering_grid(height, 64, size, 0), to_values=lambda unit, position: unit.astype(np.uint16))
    progress = Progress()
    with fill_rows(
        counted(), engine=engine_of(0.5, size), recipe=recipe, height=height, width=64, batch=1, progress=progress
    ) as parts:
        next(parts)
        time.sleep(0.5)  # the consumer stalls
        # One strip ahead, four items each of edges and inference (half of them strips), one in hand in every stage.
        assert read[-1] < 12 * size


class StageError(Exception):
    pass


class BrokenStretch(Stretch):
    """Fails in the stage that prepares tiles, at the second strip."""

    calls = 0

    def to_unit(self, values):
        BrokenStretch.calls += 1
        if BrokenStretch.calls > 1:
            raise StageError("edges")
        return super().to_unit(values)


def broken_rows(height):
    for number, rows in enumerate(long_scene(height)):
        if number == 2:
            raise StageError("reading")
        yield rows


@pytest.mark.parametrize("stage", ["reading", "edges", "inference", "blending", "writing"])
def test_an_error_in_any_stage_ends_all_of_them_and_comes_out(engine_of, recipe_of, stage):
    height, size, seen = 2_000, 64, []

    def answer(image, edge, mask):
        seen.append(1)
        if stage == "inference" and len(seen) == 3:
            raise StageError("inference")
        return np.full_like(image, 0.5)

    def to_values(unit, position):
        if stage == "blending" and len(seen) >= 2:
            raise StageError("blending")
        return unit.astype(np.uint16)

    BrokenStretch.calls = 0
    recipe = recipe_of(
        covering_grid(height, 64, size, 8),
        stretch=BrokenStretch(0, 1000) if stage == "edges" else Stretch(0, 1000),
        to_values=to_values,
    )
    rows = broken_rows(height) if stage == "reading" else long_scene(height)
    # The engine tells what failed as its own error; all else comes as it is.
    with (
        pytest.raises(EceaError if stage == "inference" else StageError, match=stage),
        fill_rows(
            rows,
            engine=engine_of(answer, size),
            recipe=recipe,
            height=height,
            width=64,
            batch=1,
            progress=Progress(),
        ) as parts,
    ):
        for _ in parts:
            if stage == "writing":
                raise StageError("writing")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ecea-")]
    assert len(seen) < 20
