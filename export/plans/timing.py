"""TensorRT's timing cache between builds: how long each kernel took, so that only new ones are timed.

It lies in the user's cache folder (:mod:`ecea.runtime.cache`) under a name made of all that it depends on. TensorRT
tells our plugin's kernels apart by their numbers alone, so their PTX is part of the name.
"""

import contextlib
import hashlib
import secrets
from pathlib import Path

from ecea.export.plans.machine import Machine
from ecea.runtime.cache import cache_folder, prune

_KIND = "tensorrt-timing-"

# Of some megabytes each. A network has two, with the plugin and without; another driver or kernel makes new ones.
_KEPT = 8


def cache_file(machine: Machine, plugin_sha256: str | None) -> Path | None:
    """Where the timings of this machine are kept; None where the user keeps no cache.

    Args:
        machine: TensorRT and GPU.
        plugin_sha256: hash of the PTX that the plugin offers, None without the plugin.
    """
    folder = cache_folder()
    if folder is None:
        return None
    gpu = machine.gpu
    decided_by = (machine.trt.__version__, gpu.name, gpu.compute_capability, gpu.driver, plugin_sha256)
    return folder / f"{_KIND}{hashlib.sha256(repr(decided_by).encode()).hexdigest()[:24]}"


def read_timings(path: Path | None) -> bytes:
    """What an earlier build has left, empty where there is nothing or it is damaged."""
    if path is None:
        return b""
    try:
        stored = path.read_bytes()
    except OSError:
        return b""
    digest, timings = stored[:32], stored[32:]
    return timings if hashlib.sha256(timings).digest() == digest else b""


def write_timings(path: Path | None, timings: bytes) -> None:
    """Keep timings for the next build, in place of those that were not used for longest.

    They appear whole, and a cache that cannot be written is gone without.
    """
    if path is None:
        return
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial.write_bytes(hashlib.sha256(timings).digest() + timings)
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    prune(path.parent, _KEPT, _KIND)
