"""Whole scenes that cannot be filled: what is said, and that nothing is written and nothing left running."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from ecea.runtime import EceaError, RequestError, inpaint
from ecea.runtime.scene import Scene

CHILD = Path(__file__).with_name("child.py")


class Names:
    """What lies in a folder, to compare."""

    def __init__(self, folder):
        self.folder = folder
        self.before = self.now()

    def now(self):
        return {path.name: path.exists() and path.read_bytes() for path in self.folder.iterdir()}

    def assert_unchanged(self):
        assert self.now() == self.before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overlap": 40}, "overlap of 40 px"),
        ({"blend": "cubic"}, "'cubic'"),
        ({"batch": 0}, "batch of 0"),
        ({"bands": (1, 2, 9)}, "has 3 bands"),
        ({"stretch": (5, 1)}, "impossible"),
        ({"mask": "absent.tif"}, "absent.tif"),
        ({"stretch": (5,)}, "not three numbers"),
        ({"stretch": (1, 2, 3, 4)}, "not three numbers"),
        ({"stretch": "0,255,1"}, "not three numbers"),
        ({"stretch": (-1e308, 1e308)}, "impossible"),
        ({"bands": "123"}, "not three"),
        ({"bands": (1.0, 2.0, 3.0)}, "not three"),
        ({"reference": True, "stretch": (0, 1)}, "leave --stretch out"),
        ({"reference": True, "overlap": 0}, "leave --overlap out"),
        ({"reference": True, "blend": "mean"}, "leave --blend out"),
    ],
)
def test_a_wrong_option_is_refused_and_nothing_is_written(tmp_path, striped, engine_of, options, message):
    (tmp_path / "o.tif").write_text("old")
    names = Names(tmp_path)
    with pytest.raises(RequestError, match=message):
        inpaint(striped[0], tmp_path / "o.tif", engine_of(0.5), **options)
    names.assert_unchanged()


def test_reference_mode_refuses_other_dtypes(tmp_path, write_scene, engine_of):
    path = write_scene(tmp_path / "s.tif", np.ones((3, 40, 40), np.uint16), nodata=0)
    with pytest.raises(RequestError, match="reference mode takes 8-bit"):
        inpaint(path, tmp_path / "o.tif", engine_of(0.5), reference=True)


def test_indexes_of_a_colour_table_are_taken_for_brightness_only_where_that_is_said(
    tmp_path, write_scene, read_bands, engine_of
):
    values = np.full((1, 40, 40), 50, np.uint8)
    values[:, 20] = 0
    path = write_scene(tmp_path / "classes.tif", values, nodata=0, photometric="palette")
    names = Names(tmp_path)
    for options in ({}, {"reference": True}):
        with pytest.raises(RequestError, match=r"classes\.tif: holds indexes of a colour table, expected brightness"):
            inpaint(path, tmp_path / "o.tif", engine_of(0.5), bands=(1, 1, 1), **options)
    names.assert_unchanged()
    inpaint(path, tmp_path / "o.tif", engine_of(0.5), bands=(1, 1, 1), stretch=(0, 100))
    assert np.array_equal(read_bands(tmp_path / "o.tif"), np.full((1, 40, 40), 50))


def test_what_is_read_is_never_overwritten(tmp_path, striped, write_scene, write_vrt, engine_of):
    path = striped[0]
    mask = write_scene(tmp_path / "mask.tif", np.ones((1, 70, 80), np.uint8))
    virtual = write_vrt(tmp_path / "s.vrt", "striped.tif", (0, 0, 0), "Byte")
    (tmp_path / "link.tif").symlink_to(path)
    (tmp_path / "overviews.tif").symlink_to(f"{path}.ovr")
    names = Names(tmp_path)
    for source, target, options in (
        (path, path, {}),
        (path, tmp_path / "link.tif", {}),
        (path, tmp_path / "overviews.tif", {}),
        (virtual, virtual, {}),
        (virtual, path, {}),
        (path, mask, {"mask": str(mask)}),
    ):
        with pytest.raises(RequestError, match=f"{target.name}: is .* name another output"):
            inpaint(source, target, engine_of(0.5), **options)
    names.assert_unchanged()


def test_an_output_that_exists_is_replaced_whole(tmp_path, striped, read_bands, engine_of):
    (tmp_path / "o.tif").write_text("old")
    inpaint(striped[0], tmp_path / "o.tif", engine_of(0.5))
    assert np.array_equal(read_bands(tmp_path / "o.tif"), striped[2])


class Failure(Exception):
    pass


def failing_engine(engine_of):
    calls = []

    def answer(image, edge, mask):
        calls.append(1)
        if len(calls) > 3:
            raise Failure("out of order")
        return image

    return engine_of(answer, 32)


@pytest.mark.parametrize("stage", ["reading", "edges", "inference", "not finite", "writing", "progress", "interrupt"])
def test_a_failure_in_any_stage_leaves_nothing(tmp_path, write_scene, engine_of, monkeypatch, stage):
    values = np.random.default_rng(0).integers(1, 60_000, (3, 900, 64)).astype(np.uint16)
    values[:, ::20] = 0
    path = write_scene(tmp_path / "s.tif", values, nodata=0)
    (tmp_path / "o.tif").write_text("old")
    engine, expected, options = engine_of(0.5, 32), Failure, {}

    def fail(*args, **kwargs):
        raise Failure(stage)

    if stage == "reading":
        read = Scene.read
        reads = []

        def second_time(self, top, bottom):
            reads.append(top)
            return fail() if reads.count(512) == 2 else read(self, top, bottom)

        monkeypatch.setattr(Scene, "read", second_time)
    elif stage == "edges":
        monkeypatch.setattr("ecea.runtime.pipeline.edge_map", fail)
    elif stage == "inference":
        engine, expected = failing_engine(engine_of), EceaError
    elif stage == "not finite":
        engine, expected = engine_of(float("nan"), 32), EceaError
    elif stage == "writing":
        monkeypatch.setattr("ecea.runtime.writer._AlignedRows._write", fail)
    elif stage == "progress":
        options["on_rows"] = fail
    else:

        def interrupt(*args):
            raise KeyboardInterrupt

        expected, options["on_rows"] = KeyboardInterrupt, interrupt
    names = Names(tmp_path)
    with pytest.raises(expected):
        inpaint(path, tmp_path / "o.tif", engine, **options)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ecea-")]
    names.assert_unchanged()


def test_an_engine_that_gives_no_numbers_is_told(tmp_path, striped, engine_of):
    with pytest.raises(EceaError, match=r"fake\.ecea: the fp32 engine gave values that are not finite on fake"):
        inpaint(striped[0], tmp_path / "o.tif", engine_of(float("inf")))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_an_interrupt_that_python_loses_comes_again():
    """In what the garbage collector calls no exception is heard: an export went on once, as if nothing had been."""
    code = """if True:
        import os, signal, sys, time, typer, weakref
        from ecea.runtime.command import sentences

        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job has ignored

        class Thing:
            pass

        def callback(_):
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                pass

        try:
            with sentences("child", debug=False):
                thing = Thing()
                watched = weakref.ref(thing, callback)
                del thing
                time.sleep(10)
                print("went on")
        except typer.Exit as done:
            sys.exit(done.exit_code)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "child: interrupted: what was not finished was not written\n"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_ends_at_once_and_leaves_nothing(tmp_path, number):
    with subprocess.Popen(
        [sys.executable, CHILD, "slow", tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "running\n"
        names = {path.name for path in tmp_path.iterdir()}
        assert any(name.startswith(".filled.") for name in names)  # the temporary output
        os.kill(child.pid, number)
        _, errors = child.communicate(timeout=20)
    assert child.returncode == 1
    assert "child: interrupted" in errors
    assert "Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]
