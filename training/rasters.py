"""Which files of a folder are rasters to train and to evaluate on."""

from pathlib import Path

from ecea.runtime.errors import RequestError

SUFFIXES = (".tif", ".tiff", ".vrt", ".img", ".jp2", ".png", ".jpg", ".jpeg", ".bmp")
"""Suffixes of the files that are taken from a folder, in lower case."""
MASK_ENDING = "_mask"
"""What the name of a scene's own mask ends in: ``NAME_mask.tif`` beside ``NAME.tif``."""


def scenes_in(folder: Path) -> list[Path]:
    """The rasters in a folder without the masks that lie beside them, sorted by name.

    Raises:
        RequestError: where there is none, or the folder cannot be read.
    """
    found = [path for path in rasters_in(folder) if not path.stem.endswith(MASK_ENDING)]
    if not found:
        raise RequestError(f"{folder}: holds masks alone (NAME{MASK_ENDING}): give a folder with scenes in it")
    return found


def rasters_in(folder: Path) -> list[Path]:
    """All rasters in a folder, by suffix, sorted by name.

    Raises:
        RequestError: where there is none, or the folder cannot be read.
    """
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    except OSError as error:
        raise RequestError(f"{folder}: cannot be read ({error.strerror}): give a folder of rasters") from error
    if not found:
        raise RequestError(
            f"{folder}: holds no raster ({', '.join(SUFFIXES)}): give a folder with images directly in it"
        )
    return found
