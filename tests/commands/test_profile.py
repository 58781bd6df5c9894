"""``ecea-profile``: what it prints and writes, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ecea.runtime.backends.layers import LayerTime
from ecea.runtime.profiling import Latency, Profile, by_kind

Run = Callable[..., Any]


@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_a_profile_as_json(backend: str, run: Run, bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino" if backend == "openvino" else "onnxruntime")
    done = run("ecea-profile", "--backend", backend, "--batch", "1,3", "--runs", 4, "-o", "profile.json")
    assert (done.status, done.stderr) == (0, "")
    profile = json.loads((tmp_path / "profile.json").read_text())
    assert (profile["engine"], profile["backend"], profile["arithmetic"]) == ("fp32", backend, "f32")
    assert [latency["batch"] for latency in profile["latencies"]] == [1, 3]
    for latency in profile["latencies"]:
        median, slow, slowest = (latency["percentiles"][name] for name in ("50", "90", "99"))
        assert 0 < median <= slow <= slowest
        assert latency["tiles_per_second"] == pytest.approx(latency["batch"] / median)
        assert latency["runs"] == 4
    assert profile["scene_tiles"] > 0
    assert profile["stages"]["total"] >= profile["stages"]["inference"] > 0
    assert profile["layers"]  # how many is the backend's affair: it may make one of the tiny model
    assert all(layer["seconds"] >= 0 for layer in profile["layers"])


def test_a_profile_as_a_page(run_here: Run, bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "other.ecea")
    arguments = "--bundle tiny.ecea --backend cpu --threads 3 --streams 2 --runs 2 -o profile.HTML"
    done = run_here("ecea-profile", *arguments.split())
    assert done.status == 0
    assert done.stdout.startswith("fp32 on cpu in f32, 3 threads in 2 streams, ")
    page = (tmp_path / "profile.HTML").read_text()
    assert "<h1>fp32 on cpu in f32</h1>" in page
    assert "Latency" in page
    assert "tiny.ecea" in page


def test_what_is_printed(run_here: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds as milliseconds where they are few, operators as shares of their sum."""
    measured = Profile(
        "a processor", "tiny.ecea", "fp32", "cpu", "f32", threads=2, streams=1, first_tile_seconds=0.25,
        latencies=(Latency(4, 20, {50: 0.1, 90: 0.1234, 99: 0.2}, 40.0),), stages={"reading": 0.5, "total": 2.0},
        scene_tiles=6, layers=(LayerTime("a", "Conv", 0.003), LayerTime("b", "Add", 0.001)),
    )  # fmt: skip
    monkeypatch.setattr("ecea.runtime.profile_cli.profile_engine", lambda *_, **__: measured)
    assert run_here("ecea-profile", "--backend", "cpu").stdout.splitlines() == [
        "fp32 on cpu in f32, 2 threads in 1 stream, a processor",
        "first tile  250 ms",
        "batch 4     p50 100.0 ms, p90 123.4 ms, p99 200.0 ms; 40.00 tiles/s",
        "6 tiles    reading 0.50 s, total 2.00 s",
        "Conv                         3.00 ms  75.0 %",
        "Add                          1.00 ms  25.0 %",
    ]


def test_kinds_of_operators_come_with_the_longest_first() -> None:
    layers = [LayerTime("a", "Conv", 1.0), LayerTime("b", "Add", 3.0), LayerTime("c", "Conv", 1.5)]
    assert list(by_kind(layers).items()) == [("Add", 3.0), ("Conv", 2.5)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-o", "profile.png"), "profile.png: does not end in .json or .html"),
        (("--batch", "0", "--runs", "1"), "a batch of 0 tiles is impossible: expected 1 to 1024"),
        (("--batch", "1,2000"), "a batch of 2000 tiles is impossible: expected 1 to 1024"),
        (("--runs", "0"), "Invalid value for '--runs'"),
        (("--engine", "int8"), "export it with 'ecea-export CHECKPOINT --engine int8'"),
        (("--streams", "900", "--threads", "2"), "900 streams cannot share 2 threads: expected 1 to 2"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_refusals(arguments: tuple[str, ...], said: str, run_here: Run, bundle: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    assert said in run_here("ecea-profile", *arguments).sentence()
    assert sorted(tmp_path.iterdir()) == before
