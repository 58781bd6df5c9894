"""Commands as users start them, on a bundle of two lines of arithmetic."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer
from numpy.typing import NDArray
from onnx import TensorProto, helper
from rasterio.transform import from_origin

from ecea.runtime.command import start_script

Run = Callable[..., Any]

MODULES = {
    "ecea-run": "ecea.runtime.cli",
    "ecea-export": "ecea.export.cli",
    "ecea-profile": "ecea.runtime.profile_cli",
    "ecea-evaluate": "ecea.training.evaluation.cli",
    "ecea-train": "ecea.training.cli",
}

_PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
ENTRIES = {
    command: f"from {place.partition(':')[0]} import {place.partition(':')[2]} as command; command()"
    for command, place in tomllib.loads(_PROJECT.read_text())["project"]["scripts"].items()
}
"""What the commands do that an installation makes."""

MODULE = "python -m "
"""What a command begins with that is a module."""

TILE = 32
SECONDS = 300  # until a process counts as hung


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    command: str
    status: int
    stdout: str
    stderr: str

    def sentence(self, status: int = 2) -> str:
        """The one sentence of a request that was refused, without the command's name."""
        assert self.status == status, self
        assert self.stderr.count("\n") == 1, self
        assert self.stderr.startswith(f"{self.command}: "), self
        return self.stderr.removeprefix(f"{self.command}: ").strip()


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Finished]:
    """``run(command, *arguments, env={...})`` in ``tmp_path``; no bundle is named in its environment.

    A command is that of an installation, or ``python -m MODULE``.
    """

    def start(command: str, *arguments: object, env: Mapping[str, str] | None = None) -> Finished:
        inherited = {name: value for name, value in os.environ.items() if name != "ECEA_BUNDLE"}
        is_module = command.startswith(MODULE)
        what = ("-m", command.removeprefix(MODULE)) if is_module else ("-c", ENTRIES[command])
        done = subprocess.run(
            [sys.executable, *what, *map(str, arguments)],
            cwd=tmp_path,
            env={**inherited, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        return Finished(command, done.returncode, done.stdout, done.stderr)

    return start


@pytest.fixture
def run_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Finished]:
    """As ``run``, but in this process: where neither environment nor signals matter, for imports take seconds."""

    def start(command: str, *arguments: object) -> Finished:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("ECEA_BUNDLE", raising=False)
        monkeypatch.setattr(sys, "argv", [command, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            _work(command)()
        out, err = capfd.readouterr()
        return Finished(command, int(ended.value.code or 0), out, err)

    return start


def _work(command: str) -> Callable[[], None]:
    """What a command does when all has been imported."""
    if command.startswith(MODULE):
        return partial(start_script, command, importlib.import_module(command.removeprefix(MODULE)).main)
    work: Callable[[], None] = importlib.import_module(MODULES[command]).main
    return work


@pytest.fixture(scope="session")
def parameters() -> Callable[[str], Sequence[Any]]:
    """``parameters(command)``: what its parser takes, but for help."""
    return lambda command: typer.main.get_command(importlib.import_module(MODULES[command]).app).params


@pytest.fixture
def without(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """``without("openvino", ...)``: an environment in which these modules are there and fail to import."""

    def environment(*modules: str) -> dict[str, str]:
        return _shadowed(
            tmp_path, {module: f"raise ImportError('no lib{module}.so on this machine')" for module in modules}
        )

    return environment


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Callable[..., dict[str, str]]]:
    """``stopped(number, "torch")``: an environment in which a process is sent a signal when it imports a module.

    Which makes an ImportError of any exception, as some do. Without one named, all that take time do.
    """

    def environment(number: int, *modules: str) -> dict[str, str]:
        code = (
            f"import os, time\ntry: os.kill(os.getpid(), {number}); time.sleep(60)\n"
            "except BaseException: raise ImportError('initialization failed')"
        )
        return _shadowed(
            tmp_path, dict.fromkeys(modules or ("cv2", "numpy", "rasterio", "rich", "torch", "typer"), code)
        )

    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    yield environment
    signal.signal(signal.SIGINT, usual)


@dataclass(frozen=True)
class Desk:
    """A folder with a bundle, a sound scene, and ``out/`` with the output of an earlier run."""

    folder: Path
    run: Run
    run_here: Run
    contents: Run
    write_scene: Run
    values: NDArray[np.uint8]

    def refusal(
        self, *arguments: object, env: dict[str, str] | None = None, backend: str = "cpu", status: int = 2
    ) -> str:
        """The one sentence that ``ecea-run`` ends with; not a byte below the folder may change.

        With an environment of its own it runs in a process of its own.
        """
        before = self.contents(self.folder)
        command = ("ecea-run", *arguments, "--backend", backend)
        done = self.run_here(*command) if env is None else self.run(*command, env=env)
        sentence: str = done.sentence(status)
        assert done.stdout == ""
        assert self.contents(self.folder) == before
        return sentence


@pytest.fixture
def desk(
    tmp_path: Path,
    run: Run,
    run_here: Run,
    contents: Run,
    bundle: Path,
    scene: Path,
    write_scene: Run,
    values: NDArray[np.uint8],
) -> Desk:
    out = tmp_path / "out"
    out.mkdir()
    (out / "filled.tif").write_bytes(b"the output of an earlier run")
    return Desk(tmp_path, run, run_here, contents, write_scene, values)


def _shadowed(folder: Path, modules: Mapping[str, str]) -> dict[str, str]:
    """An environment in which other code stands for some modules."""
    place = folder / "broken"
    place.mkdir()
    for module, code in modules.items():
        (place / f"{module}.py").write_text(f"{code}\n")
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(place), os.environ.get("PYTHONPATH")]))}


def _model() -> onnx.ModelProto:
    """``out = 0.5 image + 0.25 mask``, so a quarter in gaps; ``out_edge = 0.5 edge``."""

    def tensor(name: str, channels: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", channels, TILE, TILE])

    constants = [helper.make_tensor(name, TensorProto.FLOAT, [], [x]) for name, x in (("half", 0.5), ("quarter", 0.25))]
    nodes = [
        helper.make_node("Mul", ["image", "half"], ["dark"]),
        helper.make_node("Mul", ["mask", "quarter"], ["gap"]),
        helper.make_node("Add", ["dark", "gap"], ["out"]),
        helper.make_node("Mul", ["edge", "half"], ["out_edge"]),
    ]
    inputs = [tensor("image", 3), tensor("edge", 1), tensor("mask", 1)]
    outputs = [tensor("out", 3), tensor("out_edge", 1)]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """``tiny.ecea`` in ``tmp_path``: an fp32 engine for both backends, tiles of ``TILE`` px."""
    folder = tmp_path / "tiny.ecea"
    folder.mkdir()
    data = _model().SerializeToString()
    (folder / "generator.fp32.onnx").write_bytes(data)
    file = {"name": "generator.fp32.onnx", "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    engine = {"engine": "fp32", "backends": ["openvino", "cpu"], "files": [file], "parity": []}
    manifest = {"schema": 1, "configuration": {"img_size": TILE}, "engines": [engine]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def write_scene(tmp_path: Path, write_raster: Callable[..., Path]) -> Callable[..., Path]:
    """``write_scene(name, values, nodata=...)``: a raster of (bands, H, W) values in ``tmp_path``, in UTM."""

    def write(name: str, values: NDArray[Any], **profile: Any) -> Path:
        place = {"crs": "EPSG:32633", "transform": from_origin(500_000, 4_000_000, 30, 30)}
        return write_raster(tmp_path / name, values, **{**place, **profile})

    return write


@pytest.fixture
def values() -> NDArray[np.uint8]:
    """(3, 40, 70) 8-bit values with 3 x 10 px of zeros, the gap, in two of six tiles; no other value is 0."""
    array = np.random.default_rng(4).integers(1, 250, (3, 40, 70), dtype=np.uint8)
    array[:, 20:23, 5:15] = 0
    return array


@pytest.fixture
def scene(write_scene: Callable[..., Path], values: NDArray[np.uint8]) -> Path:
    """``scene.tif`` in ``tmp_path``: ``values``, with 0 for nodata."""
    return write_scene("scene.tif", values, nodata=0)
