"""Pipes, devices and archives, which a path may lead to or through."""

import os
import zipfile

import pytest

from ecea.runtime.errors import RequestError
from ecea.runtime.inpaint import inpaint
from ecea.runtime.scene import Scene


@pytest.fixture
def pipe(tmp_path):
    path = tmp_path / "pipe.tif"
    os.mkfifo(path)
    return path


def test_a_pipe_is_no_scene_and_no_mask(pipe, striped):
    with pytest.raises(RequestError, match="is a device or a pipe"):
        Scene(pipe)
    with pytest.raises(RequestError, match="is a device or a pipe"):
        Scene(striped[0], mask=str(pipe))


def test_a_pipe_is_not_replaced(pipe, striped, engine_of):
    with pytest.raises(RequestError, match="is a device or a pipe, which is not replaced"):
        inpaint(striped[0], pipe, engine_of(0.5))
    assert pipe.is_fifo()


def test_the_archive_of_a_scene_is_not_overwritten(tmp_path, striped, engine_of):
    archive = tmp_path / "scenes.zip"
    with zipfile.ZipFile(archive, "w") as writing:
        writing.write(striped[0], "in/striped.tif")
    before = archive.read_bytes()
    with pytest.raises(RequestError, match="is the scene itself, which is never changed"):
        inpaint(f"/vsizip/{archive}/in/striped.tif", archive, engine_of(0.5))
    assert archive.read_bytes() == before
