"""The runtime is what a ground station installs: it fills scenes without torch, onnx, and what they bring."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import onnx
import pytest
import rasterio
from onnx import TensorProto, helper
from rasterio.transform import from_origin

HEAVY = (
    "torch",
    "onnx",
    "onnxscript",
    "onnx_ir",
    "triton",
    "safetensors",
    "ml_dtypes",
    "scipy",
    "pandas",
    "matplotlib",
)
BACKENDS = ("onnxruntime", "openvino", "tensorrt")
TILE = 32

# Refuses to find these modules, as an environment that lacks them would.
BLOCK = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}, as on a ground station", name=name)

sys.meta_path.insert(0, Absent())
"""

FILL = """
from ecea.runtime import inpaint, open_engine

for backend in ("cpu", "openvino"):
    with open_engine("tiny.ecea", backend=backend) as engine:
        print(backend, inpaint("scene.tif", f"{backend}.tif", engine).pixels_filled)
"""

LIST = f"""
import sys, time
start = time.perf_counter()
from ecea.runtime import inpaint, open_engine
print(f"{{time.perf_counter() - start:.2f}}")
print(*sorted({{name.partition(".")[0] for name in sys.modules}} & {{*{HEAVY!r}, *{BACKENDS!r}}}))
"""


def child(code: str, folder: Path) -> list[str]:
    """The lines that Python prints on running ``code`` in ``folder``."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """``tiny.ecea``, whose ``out`` is the image and a quarter in gaps, and ``scene.tif`` with 96 px missing."""

    def tensor(name: str, channels: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", channels, TILE, TILE])

    nodes = [
        helper.make_node("Mul", ["mask", "quarter"], ["gap"]),
        helper.make_node("Add", ["image", "gap"], ["out"]),
        helper.make_node("Identity", ["edge"], ["out_edge"]),
    ]
    quarter = helper.make_tensor("quarter", TensorProto.FLOAT, [], [0.25])
    inputs, outputs = {"image": 3, "edge": 1, "mask": 1}, {"out": 3, "out_edge": 1}
    ends = [[tensor(name, channels) for name, channels in side.items()] for side in (inputs, outputs)]
    graph = helper.make_graph(nodes, "tiny", *ends, [quarter])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    bundle = tmp_path / "tiny.ecea"
    bundle.mkdir()
    (bundle / "tiny.onnx").write_bytes(data)
    file = {"name": "tiny.onnx", "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    engine = {"engine": "fp32", "backends": ["openvino", "cpu"], "files": [file]}
    manifest = {"schema": 1, "configuration": {"img_size": TILE}, "engines": [engine]}
    (bundle / "manifest.json").write_text(json.dumps(manifest))

    values = np.random.default_rng(0).integers(1, 255, (3, 50, 48), dtype=np.uint8)
    values[:, 20:22] = 0
    place = {"crs": "EPSG:32633", "transform": from_origin(500_000, 4_000_000, 30, 30)}
    options = {"driver": "GTiff", "dtype": "uint8", "nodata": 0, "count": 3, "height": 50, "width": 48, **place}
    with rasterio.open(tmp_path / "scene.tif", "w", **options) as target:
        target.write(values)
    return tmp_path


def filled(folder: Path, name: str) -> bool:
    """Whether the output holds the scene's values, and round(255 / 4) in its gaps."""
    with rasterio.open(folder / "scene.tif") as before, rasterio.open(folder / name) as after:
        values = before.read()
        return np.array_equal(np.where(values == 0, 64, values), after.read())


def test_importing_the_runtime_imports_nothing_heavy_and_no_backend(tmp_path: Path) -> None:
    seconds, *modules = child(LIST, tmp_path)
    print(f"import ecea.runtime: {seconds} s")  # well under one on a quiet machine
    assert modules == [""]


def test_a_scene_is_filled_where_nothing_heavy_can_be_imported(workplace: Path) -> None:
    pytest.importorskip("openvino")
    assert child(BLOCK + FILL, workplace) == ["cpu 96", "openvino 96"]
    assert filled(workplace, "cpu.tif")
    assert filled(workplace, "openvino.tif")


def test_the_block_blocks(tmp_path: Path) -> None:
    code = BLOCK + "\ntry:\n    import torch\nexcept ImportError as error:\n    print(error)"
    assert child(code, tmp_path) == ["No module named 'torch', as on a ground station"]


@pytest.mark.slow
def test_the_runtime_alone_installs_and_fills_a_scene(workplace: Path) -> None:
    """A bare environment, the package with what it depends on, and nothing else."""
    source = Path(__file__).resolve().parents[1]
    venv.create(workplace / "env", with_pip=True, system_site_packages=False)
    binaries = workplace / "env" / ("Scripts" if os.name == "nt" else "bin")

    def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "ECEA_BUNDLE")}
        return subprocess.run(
            [binaries / program, *arguments],
            cwd=workplace,
            env=environment,
            capture_output=True,
            text=True,
            timeout=500,
        )

    # Built from a copy: setuptools would leave its build folder in the checkout.
    installed = run(
        "pip", "install", "--quiet", "--disable-pip-version-check", str(_copy(source, workplace / "source"))
    )
    assert installed.returncode == 0, installed.stderr
    packages = {entry["name"].lower() for entry in json.loads(run("pip", "list", "--format=json").stdout)}
    assert not packages & {"torch", "onnx", "onnxscript", "onnx-ir", "triton"}
    helped = run("ecea-run", "-h")
    assert (helped.returncode, helped.stderr) == (0, "")
    for backend in ("cpu", "openvino"):
        done = run("ecea-run", "scene.tif", "--backend", backend, "-o", f"{backend}.tif")
        assert (done.returncode, done.stderr) == (0, "")
        assert filled(workplace, f"{backend}.tif")
    refused = run("ecea-export", "G.pth")
    assert refused.returncode == 2
    assert "install ecea with its 'export' extra" in refused.stderr


def _copy(source: Path, destination: Path) -> Path:
    """The files that make the package, without what was built before, which would be built in again."""
    left = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "demo", "dist", "tests", "benchmarks")
    return Path(shutil.copytree(source, destination, ignore=left, dirs_exist_ok=True))
