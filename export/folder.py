"""A bundle's folder while it is written, and the folder of temporary files."""

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ecea.runtime.bundle import MANIFEST_NAME, SUFFIX, BundleFile, sha256
from ecea.runtime.errors import EceaError, RequestError
from ecea.runtime.paths import leads_through, place_for
from ecea.runtime.scene import Scene
from ecea.runtime.writer import WHY_NOT_WRITTEN


def check_bundle(target: Path, checkpoint: Path) -> None:
    """Refuse a bundle that cannot be written, or would replace what is none, before any work is done.

    Raises:
        RequestError: where its name or its folder is wrong, or it is something else, or holds the checkpoint.
    """
    if target.suffix != SUFFIX:
        raise RequestError(f"{target}: does not end in {SUFFIX}: name the bundle NAME{SUFFIX}")
    real = place_for(target)
    if target.exists() and not (target / MANIFEST_NAME).is_file():
        raise RequestError(f"{target}: exists and is no bundle: remove it, or name another output")
    if _holds(target, checkpoint):
        raise RequestError(f"{target}: holds the checkpoint, and would be replaced: name another output")
    try:  # what may be written is not always what can be: a full disk, /proc
        tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=real.parent).cleanup()
    except OSError as error:
        raise RequestError(
            f"{target}: the folder {real.parent} cannot be written ({error.strerror}): name another output"
        ) from error


def check_scenes(target: Path, scenes: Sequence[str | os.PathLike[str]], options: Mapping[str, Any]) -> None:
    """Refuse a bundle that would be replaced with what scenes are read from in it.

    Args:
        target: the bundle.
        scenes: rasters that are to be read.
        options: of :func:`ecea.runtime.filling.scene_tiles`.

    Raises:
        RequestError: where it holds a scene, a mask or what a scene is made of, or a scene cannot be opened.
    """
    where = {name: value for name, value in options.items() if name in ("bands", "mask")}
    for scene in scenes:
        with Scene(scene, **where) as opened:
            read = next((file for file in opened.files if _holds(target, file)), None)
        if read is not None:
            raise RequestError(f"{target}: holds {read}, which is read, and would be replaced: name another output")


def _holds(folder: Path, file: str | os.PathLike[str]) -> bool:
    """Whether a file, or an archive or a link that leads to it, lies in a folder."""
    real = folder.resolve()
    files = (path for path in leads_through(file) if os.path.isfile(path))  # noqa: PTH113 which raises on some URLs
    return any(at.resolve().is_relative_to(real) for path in files for at in (path, path.parent))


@contextmanager
def whole_or_nothing(target: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``target`` that takes its place if the block succeeds, else is deleted."""
    target = target.resolve()  # a link to a bundle stays, and leads to the new one
    token = secrets.token_hex(4)
    temporary, old = (target.with_name(f".{target.name}.{token}.{state}") for state in ("partial", "old"))
    try:
        temporary.mkdir()
        yield temporary
        if target.exists():
            target.rename(old)
        temporary.rename(target)
    except BrokenPipeError:  # of what is said meanwhile; no file is to blame
        raise
    except OSError as error:
        raise EceaError(f"{target}: cannot be written ({error.strerror or error}): {WHY_NOT_WRITTEN}") from error
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def in_temporary_folder(what: str) -> Iterator[None]:
    """What cannot be written in the block is said of the temporary folder, which the bundle need not be in.

    Args:
        what: for which it is written, for the message.
    """
    try:
        yield
    except BrokenPipeError:  # of what is said meanwhile; no file is to blame
        raise
    except OSError as error:
        raise EceaError(
            f"{tempfile.gettempdir()}: what {what} needs meanwhile cannot be written there "
            f"({error.strerror or error}): is the disk full? Make room, or name another folder as $TMPDIR"
        ) from error


def take_over(old: Path, new: Path) -> None:
    """The same file under another name, without copying where the disk can."""
    try:
        os.link(old, new)
    except OSError:
        shutil.copyfile(old, new)


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write or replace the manifest of a bundle."""
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest, indent=1) + "\n")


def describe_file(path: Path) -> BundleFile:
    """A file as the manifest names it."""
    return BundleFile(path.name, sha256(path), path.stat().st_size)
