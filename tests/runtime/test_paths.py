"""Pipes, devices and archives, which a path may lead to or through, and names that GDAL does not take."""

import gzip
import html
import os
import zipfile

import pytest

from ecea.runtime.errors import RequestError
from ecea.runtime.filling import inpaint
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


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("/vsizip/{folder}/a.zip/s.tif", "a.zip"),
        ("/vsizip/{{{folder}/a.zip}}/s.tif", "a.zip"),
        ("/vsigzip/{folder}/s.tif.gz", "s.tif.gz"),
        ("/vsisubfile/0_100000,{folder}/s.tif", "s.tif"),
        ("/vsicached?file={folder}/s.tif", "s.tif"),
        ("/vsicached?chunk_size=4096&file={folder}/s.tif", "s.tif"),
        ("GTIFF_DIR:1:{folder}/s.tif", "s.tif"),
        ("{folder}/no_suffix", "s.tif"),  # a VRT
    ],
)
def test_what_a_virtual_name_leads_to_is_not_overwritten(tmp_path, striped, write_vrt, engine_of, name, target):
    striped[0].rename(tmp_path / "s.tif")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as writing:
        writing.write(tmp_path / "s.tif", "s.tif")
    (tmp_path / "s.tif.gz").write_bytes(gzip.compress((tmp_path / "s.tif").read_bytes()))
    write_vrt(tmp_path / "no_suffix", "s.tif", (0, 0, 0), "Byte")
    source = name.format(folder=tmp_path)
    outer = write_vrt(tmp_path / "outer.vrt", "s.tif", (0, 0, 0), "Byte")
    outer.write_text(outer.read_text().replace('relativeToVRT="1">s.tif', f'relativeToVRT="0">{html.escape(source)}'))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    plain = engine_of(0.5)
    for scene, mask in ((source, None), (outer, None), (tmp_path / "s.tif", source)):
        with pytest.raises(RequestError, match=rf"{target}: is .* name another output"):
            inpaint(scene, tmp_path / target, plain, mask=mask)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["caf\udce9.tif", "a\0b.tif"])
def test_a_name_that_gdal_does_not_take_is_refused(tmp_path, striped, engine_of, name):
    path = f"{tmp_path}/{name}"
    with pytest.raises(RequestError, match=r"UTF-8|zero byte"):
        inpaint(path, tmp_path / "o.tif", engine_of(0.5))
    with pytest.raises(RequestError, match=r"UTF-8|zero byte"):
        inpaint(striped[0], path, engine_of(0.5))
    with pytest.raises(RequestError, match=r"UTF-8|zero byte"):
        inpaint(striped[0], tmp_path / "o.tif", engine_of(0.5), mask=path)


def test_a_name_too_long_for_the_file_system_is_refused(tmp_path, striped, engine_of):
    with pytest.raises(RequestError, match="too long a name"):
        inpaint(striped[0], tmp_path / f"{'o' * 252}.tif", engine_of(0.5))
    with pytest.raises(RequestError, match=r"is not a raster|no such file"):
        inpaint(tmp_path / f"{'s' * 252}.tif", tmp_path / "o.tif", engine_of(0.5))


def test_an_output_of_the_longest_name_is_written(tmp_path, striped, read_bands, engine_of):
    """What GDAL may keep beside it would have a longer name, and is not there."""
    target = tmp_path / f"{'o' * 251}.tif"
    inpaint(striped[0], target, engine_of(0.5))
    assert (read_bands(target) == striped[2]).all()
