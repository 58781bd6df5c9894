"""What tests of several packages use. Nothing here imports torch before a test asks for it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ecea.model import Generator

if "PYTEST_XDIST_WORKER" in os.environ:  # where two run at once, PyTorch's threads would wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")

with contextlib.suppress(ImportError):  # tests on a GPU do without
    from hypothesis import settings

    settings.register_profile("here", deadline=None)  # a busy machine is no defect
    settings.load_profile("here")

# Of two workers, one begins at the front, the other in the middle, and who is done takes half of what the other still
# has, from its end: so what is long, or shares what is long to make, comes first.
LONGEST_FIRST = ("export/test_full_size.py", "export/", "kernels/", "calibration/", "training/")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let no worker compute alone at the end, nor both make the bundle that all tests of the export share."""

    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(Path(__file__).parent).as_posix()
        return next((n for n, start in enumerate(LONGEST_FIRST) if path.startswith(start)), len(LONGEST_FIRST))

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def heeded_signals() -> Iterator[None]:
    """Signals do what they usually do, here and in what tests start: a job in the background ignores some."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled models go to a folder of this run, never to the user's; processes that tests start inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECEA_CACHE", str(tmp_path_factory.mktemp("compiled")))
        yield


@pytest.fixture(scope="session")
def write_raster() -> Callable[..., Path]:
    """``write_raster(path, values, **profile)``: a raster of (bands, H, W) values, a GeoTIFF; folders are made."""

    def write(path: Path, values: NDArray[Any], **profile: Any) -> Path:
        import rasterio

        path.parent.mkdir(parents=True, exist_ok=True)
        count, height, width = values.shape
        options = {"driver": "GTiff", "dtype": values.dtype, **profile}
        with rasterio.open(path, "w", count=count, height=height, width=width, **options) as target:
            target.write(values)
        return path

    return write


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, str]]:
    """``contents(folder)``: path -> SHA-256 of every file below a folder, hidden ones too."""

    def read(folder: Path) -> dict[str, str]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    return read


@pytest.fixture(scope="session")
def files_of_at_most() -> Callable[[int], AbstractContextManager[None]]:
    """``with files_of_at_most(count):`` no file of this process may grow beyond so many bytes: short of a full disk."""

    @contextmanager
    def limited(count: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)

    return limited


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data shared between checkouts: ``$ECEA_SHARED``, else ``shared`` beside the checkout."""
    given = os.environ.get("ECEA_SHARED")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set ECEA_SHARED to where it lies")
    return folder


@pytest.fixture(scope="session")
def golden_weights(shared: Path) -> Callable[[Mapping[str, tuple[int, ...]], int], dict[str, NDArray[Any]]]:
    """``deterministic_weights(shapes, seed)``, the weights behind all golden data."""
    path = shared / "golden" / "deterministic_weights.py"
    spec = importlib.util.spec_from_file_location("deterministic_weights", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    weights: Callable[[Mapping[str, tuple[int, ...]], int], dict[str, NDArray[Any]]]
    weights = module.deterministic_weights
    return weights


@dataclass(frozen=True)
class GoldenNetwork:
    """A generator with golden weights, in eval mode, and what the published one made of ``inputs``.

    ``inputs`` are image (B, 3, S, S), edge and mask (B, 1, S, S); ``outputs`` are out (B, 3, S, S) and
    out_edge (B, 1, S, S); all float32.
    """

    generator: Generator
    inputs: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
    outputs: tuple[NDArray[np.float32], NDArray[np.float32]]


@pytest.fixture(scope="session")
def golden_network(
    shared: Path, golden_weights: Callable[[Mapping[str, tuple[int, ...]], int], dict[str, NDArray[Any]]]
) -> Callable[[str], GoldenNetwork]:
    """Load ``network_s64``, ``network_s128`` or ``network_default``; afresh at each call: the last takes 500 MB."""

    def load(name: str) -> GoldenNetwork:
        import torch

        from ecea.model import Generator, GeneratorConfig

        with np.load(shared / "golden" / f"{name}.npz") as file:
            golden = {key: file[key] for key in file.files}
        options = json.loads(str(golden["config"])) if "config" in golden else {}
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in options.items()}
        config = GeneratorConfig(**fields)
        with torch.device("meta"):
            generator = Generator(config)
        shapes = {key: tuple(tensor.shape) for key, tensor in generator.state_dict().items()}
        weights = golden_weights(shapes, int(golden["seed"]))
        generator.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()}, assign=True)
        return GoldenNetwork(
            generator.eval(),
            (golden["image"], golden["edge"], golden["mask"]),
            (golden["out"], golden["out_edge"]),
        )

    return load


@pytest.fixture(scope="session")
def benchmark() -> Callable[[str], ModuleType]:
    """``benchmark("gpu_attention")``: a module of ``benchmarks/``, which is no package."""

    def load(name: str) -> ModuleType:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks")
            return importlib.import_module(name)

    return load


@pytest.fixture(scope="module")
def trt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """TensorRT's genuine bindings, and ``tests/fakes`` on the search path.

    Other tests find ``tensorrt`` as it was before.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent / "fakes")
        yield importlib.import_module("tensorrt_stubs").load(tmp_path_factory.mktemp("stubs"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorrt"]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def libcuda(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``libcuda(init=0, count=1, free=None)``: a driver that answers so when it is asked for GPUs and their memory.

    It can do nothing else; ``held_contexts()`` of it are those that were not given back. With ``soname``, a process
    that has loaded it finds it by that name too.
    """
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("libcuda")

    def make(init: int = 0, count: int = 1, free: int | None = None, soname: str = "") -> Path:
        path = folder / f"libcuda-{init}-{count}-{free}-{soname}.so"
        text = f"""
            static int held, current;
            int held_contexts(void) {{ return held + current; }}
            int cuInit(unsigned flags) {{ return {init}; }}
            int cuDeviceGetCount(int *count) {{ *count = {count}; return 0; }}
            int cuDeviceGet(int *device, int number) {{ *device = number; return 0; }}
            int cuDevicePrimaryCtxRetain(void **context, int device) {{ held++; *context = &held; return 0; }}
            int cuDevicePrimaryCtxRelease_v2(int device) {{ held--; return 0; }}
            int cuCtxPushCurrent_v2(void *context) {{ if (context != &held) return 201; current++; return 0; }}
            int cuCtxPopCurrent_v2(void **context) {{ current--; return 0; }}
            int cuMemGetInfo_v2(unsigned long *free, unsigned long *total) {{
                if (!current || {int(free is None)}) return 201;
                *free = {free or 0}ul; *total = 80ul << 30; return 0;
            }}
        """
        named = [f"-Wl,-soname,{soname}"] if soname else []
        command = ["cc", "-x", "c", "-shared", "-fPIC", *named, "-o", path, "-"]
        subprocess.run(command, input=text.encode(), check=True)
        return path

    return make
