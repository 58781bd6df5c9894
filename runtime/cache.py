"""What backends compile, kept between starts: the second start of an engine takes a fraction of the first.

The folder is ``$ECEA_CACHE``, else ``ecea`` in the user's own cache folder. An empty ``$ECEA_CACHE`` switches it off.
Everything in it can be deleted at any time. Compiled models are as trustworthy as who may write there, so the folder
is the user's alone.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ENVIRONMENT_VARIABLE = "ECEA_CACHE"

# An entry of the full-size network takes up to 0.5 GB of disk.
_ENTRIES_KEPT = 6


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


@contextmanager
def entry_for(model: Path, cache: Path, compiler: str) -> Iterator[Path | None]:
    """Give the folder that a backend keeps its compiled form of ``model`` in, for the block to load from or fill.

    A new entry appears whole, after the block. Where the block raises, the entry is taken for damaged and deleted,
    and the block's exception is kept from the caller, who compiles without a cache then; as does one who is given
    None, because the cache cannot be written.

    Args:
        model: the file to compile.
        cache: the folder of all entries.
        compiler: what compiles it, with its version.
    """
    entry = cache / _key(model, compiler)
    known = entry.is_dir()
    folder = entry if known else cache / f".{entry.name}.{secrets.token_hex(4)}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=known)
        os.utime(folder)
    except OSError:
        yield None
        return
    try:
        yield folder
    except RuntimeError:
        shutil.rmtree(folder, ignore_errors=True)
        return
    except BaseException:
        if not known:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if not known:
        _publish(folder, entry)


def _key(model: Path, compiler: str) -> str:
    """Tell a file from any other, and from itself after a change; the backends themselves go by path and time."""
    path = model.resolve()
    status = path.stat()
    return hashlib.sha256(repr((str(path), status.st_size, status.st_mtime_ns, compiler)).encode()).hexdigest()[:24]


def _publish(folder: Path, entry: Path) -> None:
    """Let a finished entry appear, unless another process was faster, and delete those not used for longest."""
    with contextlib.suppress(OSError):
        folder.rename(entry)
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        entries = [path for path in entry.parent.iterdir() if path.is_dir() and not path.name.startswith(".")]
        for old in sorted(entries, key=lambda path: path.stat().st_mtime, reverse=True)[_ENTRIES_KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
