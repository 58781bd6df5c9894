"""What backends compile, kept between starts: the second start of an engine takes a fraction of the first.

The folder is ``$ECEA_CACHE``, else ``ecea`` in the user's own cache folder. An empty ``$ECEA_CACHE`` switches it off.
Its entries can be deleted at any time. Compiled models are as trustworthy as who may write there, so the folder is
made for the user alone.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ENVIRONMENT_VARIABLE = "ECEA_CACHE"

# An entry of the full-size network takes up to 0.5 GB of disk.
_ENTRIES_KEPT = 6

# The folder may be one that the user keeps other things in: nothing else is ever deleted.
_ENTRY = "[0-9a-f]{24}"
_TOKEN = "[0-9a-f]{8}"

_ABANDONED_SECONDS = 24 * 3600  # no compilation takes as long: whoever began was killed

_DIGESTS = "sha256.json"
_DIGEST_BYTES = 32 << 20
_CHUNK_BYTES = 1 << 20


def cache_folder() -> Path | None:
    """Where compiled models are kept; None where they are not."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named is not None:
        return Path(named) if named else None
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(home) if home else Path.home() / ".cache") / "ecea"
    except RuntimeError:  # a user without a home
        return None


class Entry(NamedTuple):
    """Where a backend keeps its compiled form of a model; ``known``: it is there, else the folder is empty."""

    folder: Path
    known: bool


@contextmanager
def entry_for(model: Path, content: str, cache: Path, compiler: str) -> Iterator[Entry | None]:
    """Give the entry that a backend keeps its compiled form of ``model`` in, for the block to load from or fill.

    A new entry appears whole, after the block. Where the block raises, the entry is taken for damaged and deleted,
    and the block's exception is kept from the caller, who compiles without a cache then; as does one who is given
    None, because the cache cannot be written.

    Args:
        model: the file to compile.
        content: what tells this model and its weights from others that may come to lie at the same path.
        cache: the folder of all entries.
        compiler: what compiles it, with its version, for which processor.
    """
    entry = cache / _key(model, content, compiler)
    known = _is_whole(entry)
    folder = entry if known else cache / f".{entry.name}.{secrets.token_hex(4)}"
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not known:
            _remove(entry)
            folder.mkdir(mode=0o700)
        os.utime(folder)
    except OSError:
        yield None
        return
    try:
        yield Entry(folder, known)
    except RuntimeError:
        shutil.rmtree(folder, ignore_errors=True)
        return
    except BaseException:
        if not known:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if not known:
        _publish(folder, entry)


def _remove(entry: Path) -> None:
    """Delete an entry, or whatever lies in its place."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)


def _key(model: Path, content: str, compiler: str) -> str:
    """Tell a model from any other, and from itself after a change; the backends themselves go by path and time."""
    path = model.resolve()
    status = path.stat()
    known_by = (str(path), status.st_size, status.st_mtime_ns, content, compiler)
    return hashlib.sha256(repr(known_by).encode()).hexdigest()[:24]


def _is_whole(entry: Path) -> bool:
    """Whether the files of an entry are those that were published: a damaged one may load, and give wrong values."""
    try:
        if not all(path.is_file() for path in entry.iterdir()):  # to read a pipe is to wait for ever
            return False
        return bool(json.loads((entry / _DIGESTS).read_bytes()) == _digests(entry))
    except (OSError, ValueError):
        return False


def _digests(folder: Path) -> dict[str, list[str]]:
    """The SHA-256 of each part of each file, computed side by side: the next start waits for it."""
    with ThreadPoolExecutor() as threads:
        return {
            path.name: list(threads.map(_digest, *zip(*_parts(path), strict=True)))
            for path in folder.iterdir()
            if path.name != _DIGESTS
        }


def _parts(path: Path) -> list[tuple[Path, int]]:
    """Where each part of a file begins; the one after the last byte is empty, and tells a file that has grown."""
    return [(path, start) for start in range(0, path.stat().st_size + 1, _DIGEST_BYTES)]


def _digest(path: Path, start: int) -> str:
    digest, end = hashlib.sha256(), start + _DIGEST_BYTES
    with path.open("rb") as stream:
        stream.seek(start)
        while chunk := stream.read(min(_CHUNK_BYTES, end - stream.tell())):
            digest.update(chunk)
    return digest.hexdigest()


def _publish(folder: Path, entry: Path) -> None:
    """Let a finished entry appear, unless another process was faster, and delete those not used for longest."""
    with contextlib.suppress(OSError):
        if digests := _digests(folder):  # a compiler whose disk is full leaves nothing, and says nothing
            (folder / _DIGESTS).write_text(json.dumps(digests))
            folder.rename(entry)
    shutil.rmtree(folder, ignore_errors=True)
    prune(entry.parent, _ENTRIES_KEPT)


def prune(cache: Path, kept: int, kind: str = "") -> None:
    """Delete entries that were not used for longest, and what somebody began and never finished.

    Args:
        cache: the folder of all entries.
        kept: how many stay.
        kind: of entries, the beginning of their names; others are left alone.
    """
    with contextlib.suppress(OSError):
        by_age = sorted(cache.iterdir(), key=lambda path: path.lstat().st_mtime, reverse=True)
        oldest = [path for path in by_age if re.fullmatch(kind + _ENTRY, path.name)][kept:]
        before = time.time() - _ABANDONED_SECONDS
        partial = rf"\.{kind}{_ENTRY}\.{_TOKEN}"
        abandoned = [path for path in by_age if re.fullmatch(partial, path.name) and path.lstat().st_mtime < before]
        for path in (*oldest, *abandoned):
            _remove(path)
