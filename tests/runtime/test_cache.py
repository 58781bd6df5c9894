"""Compiled models are kept for the next start, and never make it wrong."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecea.runtime import open_engine
from ecea.runtime.cache import cache_folder, entry_for
from ecea.runtime.errors import RequestError

pytest.importorskip("openvino")

SIZE = 32


def gap_value(bundle: Path, **options: Any) -> float:
    """What the tiny bundle makes of a gap, which is the number in its weights: 0.25."""
    image = np.zeros((1, 3, SIZE, SIZE), np.float32)
    mask = np.ones((1, 1, SIZE, SIZE), np.float32)
    with open_engine(bundle, backend="openvino", **options) as engine:
        out, _ = engine.infer(image, mask, mask)
    assert out.min() == out.max()
    return float(out.max())


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below a folder: its bytes, and the time of its last change."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def blob(cache: Path) -> Path:
    (found,) = cache.glob("*/*.blob")
    return found


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each model that OpenVINO is asked for, whether it took it from the cache."""
    import openvino

    seen: list[bool] = []
    compile_model = openvino.Core.compile_model

    def watched(self: Any, *arguments: Any, **options: Any) -> Any:
        compiled = compile_model(self, *arguments, **options)
        seen.append(bool(compiled.get_property("LOADED_FROM_CACHE")))
        return compiled

    monkeypatch.setattr(openvino.Core, "compile_model", watched)
    return seen


def test_the_second_start_takes_what_the_first_compiled(
    cache: Path, tiny_bundle: Callable[..., Path], compilations: list[bool]
) -> None:
    bundle = tiny_bundle()
    assert gap_value(bundle) == 0.25
    kept = contents(cache)
    assert len(list(cache.iterdir())) == 1
    for options in ({}, {"threads": 1}, {"threads": 2, "streams": 2}):  # one entry serves them all
        assert gap_value(bundle, **options) == 0.25
    assert compilations == [False, True, True, True]
    assert contents(cache) == kept


def test_only_the_user_may_look_inside(cache: Path, tiny_bundle: Callable[..., Path]) -> None:
    """Whoever can write there decides what is run."""
    before = os.umask(0)
    try:
        gap_value(tiny_bundle())
    finally:
        os.umask(before)
    (entry,) = cache.iterdir()
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (cache, entry)] == [0o700, 0o700]


def test_an_empty_name_switches_it_off(
    tiny_bundle: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("ECEA_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    assert cache_folder() is None
    assert gap_value(tiny_bundle()) == 0.25
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.ecea"]


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECEA_CACHE", "/data/compiled")
    assert cache_folder() == Path("/data/compiled")
    monkeypatch.delenv("ECEA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/anne/caches")
    assert cache_folder() == Path("/home/anne/caches/ecea")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/anne")
    assert cache_folder() == Path("/home/anne/.cache/ecea")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, where not even root can make a folder")
def test_a_folder_that_cannot_be_written_is_done_without(
    tiny_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECEA_CACHE", "/proc/ecea")
    assert gap_value(tiny_bundle()) == 0.25


def test_a_file_in_its_place_is_done_without_and_stays(cache: Path, tiny_bundle: Callable[..., Path]) -> None:
    cache.write_text("precious")
    assert gap_value(tiny_bundle()) == 0.25
    assert cache.read_text() == "precious"


# Damage


def flipped(data: bytes) -> bytes:
    """As a disk does it: a few bytes in the middle, which OpenVINO itself does not see."""
    start = len(data) // 3
    return data[:start] + bytes(byte ^ 0xFF for byte in data[start : start + 64]) + data[start + 64 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "short": lambda data: data[:100],
    "half": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "noise": lambda data: np.random.default_rng(0).bytes(len(data)),
    "flipped": flipped,
    "longer": lambda data: data + b"more",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_compiled_anew(
    damage: str, cache: Path, tiny_bundle: Callable[..., Path], compilations: list[bool]
) -> None:
    bundle = tiny_bundle()
    gap_value(bundle)
    path = blob(cache)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert gap_value(bundle) == 0.25
    assert gap_value(bundle) == 0.25
    assert compilations == [False, False, True]


@pytest.mark.parametrize("what", ["file", "pipe", "pipe inside", "link"])
def test_something_else_in_the_place_of_an_entry_gives_way(
    what: str, cache: Path, tiny_bundle: Callable[..., Path], compilations: list[bool], tmp_path: Path
) -> None:
    bundle = tiny_bundle()
    gap_value(bundle)
    (entry,) = cache.iterdir()
    if what == "pipe inside":
        os.mkfifo(entry / "pipe")
    else:
        shutil.rmtree(entry)
        places = {"file": entry.touch, "pipe": lambda: os.mkfifo(entry), "link": lambda: entry.symlink_to(tmp_path)}
        places[what]()
    assert [gap_value(bundle), gap_value(bundle)] == [0.25, 0.25]
    assert compilations == [False, False, True]
    assert tmp_path.is_dir()


def test_an_entry_that_openvino_refuses_is_compiled_anew(
    cache: Path, tiny_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import openvino

    compile_model = openvino.Core.compile_model

    def refusing(self: Any, model: Any, device: str, properties: dict[str, Any]) -> Any:
        if "CACHE_DIR" in properties:
            raise RuntimeError("cannot deserialize")
        return compile_model(self, model, device, properties)

    bundle = tiny_bundle()
    gap_value(bundle)
    monkeypatch.setattr(openvino.Core, "compile_model", refusing)
    assert gap_value(bundle) == 0.25
    assert list(cache.iterdir()) == []


# What an entry is for


def replace_weights(bundle: Path, file: str, old: float, new: float) -> None:
    """Give a bundle other weights, with the hash to go with them, and the date of the old."""
    path = bundle / file
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(np.float32(old).tobytes(), np.float32(new).tobytes()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    manifest = json.loads((bundle / "manifest.json").read_text())
    for record in manifest["engines"]:
        for described in record["files"]:
            data = (bundle / described["name"]).read_bytes()
            described.update(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_other_weights_of_the_same_size_and_date_are_other_weights(
    cache: Path, tiny_bundle: Callable[..., Path]
) -> None:
    """Packagers give all files one date; the backend itself goes by path and date of the model alone."""
    bundle = tiny_bundle()
    assert gap_value(bundle) == 0.25
    replace_weights(bundle, "generator.fp32.weights", 0.25, 0.75)
    assert gap_value(bundle) == 0.75
    assert len(list(cache.iterdir())) == 2


def test_a_changed_model_has_an_entry_of_its_own(cache: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"

    def opened(content: str = "", compiler: str = "compiler-1") -> str:
        with entry_for(model, content, cache, compiler) as entry:
            assert entry is not None
            assert entry.known == (entry.folder / "compiled").exists()
            (entry.folder / "compiled").write_bytes(b"x")
        return "known" if entry.known else "new"

    model.write_bytes(b"one")
    assert [opened(), opened()] == ["new", "known"]
    assert [opened(compiler="compiler-2"), opened(content="other weights")] == ["new", "new"]
    model.write_bytes(b"three")
    assert [opened(), opened()] == ["new", "known"]
    os.utime(model, (1, 1))
    assert [opened(), opened()] == ["new", "known"]
    assert len(list(cache.iterdir())) == 5


# What is read, and what is not


def flip_in_place(path: Path) -> None:
    """Damage a file, and leave its length and date as they were."""
    before = path.stat()
    path.write_bytes(flipped(path.read_bytes()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_bundle_whose_entry_is_whole_is_not_read_again(cache: Path, tiny_bundle: Callable[..., Path]) -> None:
    """What was compiled comes of files that were sound; half a gigabyte more takes its time to hash."""
    bundle = tiny_bundle()
    gap_value(bundle)
    flip_in_place(bundle / "generator.fp32.weights")
    assert gap_value(bundle) == 0.25
    shutil.rmtree(cache)
    with pytest.raises(RequestError, match=r"generator\.fp32\.weights: has sha256"):
        gap_value(bundle)
    assert list(cache.iterdir()) == []


def test_a_damaged_bundle_is_not_compiled_instead_of_a_damaged_entry(
    cache: Path, tiny_bundle: Callable[..., Path]
) -> None:
    bundle = tiny_bundle()
    gap_value(bundle)
    flip_in_place(bundle / "generator.fp32.weights")
    flip_in_place(blob(cache))
    with pytest.raises(RequestError, match=r"generator\.fp32\.weights: has sha256"):
        gap_value(bundle)


def test_a_bundle_that_openvino_reads_in_spite_of_an_entry_is_verified(
    cache: Path, tiny_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import openvino

    bundle = tiny_bundle()
    gap_value(bundle)
    flip_in_place(bundle / "generator.fp32.weights")
    compile_model = openvino.Core.compile_model

    def no_use_for_it(self: Any, model: Any, device: str, properties: dict[str, Any]) -> Any:
        return compile_model(self, model, device, {k: v for k, v in properties.items() if k != "CACHE_DIR"})

    monkeypatch.setattr(openvino.Core, "compile_model", no_use_for_it)
    with pytest.raises(RequestError, match=r"generator\.fp32\.weights: has sha256"):
        gap_value(bundle)


def test_files_of_another_length_are_refused_at_once(cache: Path, tiny_bundle: Callable[..., Path]) -> None:
    bundle = tiny_bundle()
    gap_value(bundle)
    with (bundle / "generator.fp32.weights").open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(RequestError, match=r"generator\.fp32\.weights: has \d+ bytes, the manifest says"):
        gap_value(bundle)


# Several at once


OPENING = """
import sys
import numpy as np
from ecea.runtime import open_engine

print("ready", flush=True)
sys.stdin.readline()
with open_engine(sys.argv[1], backend="openvino") as engine:
    mask = np.ones((1, 1, 32, 32), np.float32)
    print(engine.infer(np.zeros((1, 3, 32, 32), np.float32), mask, mask)[0].max(), flush=True)
"""


def test_two_processes_open_one_bundle_at_once(cache: Path, tiny_bundle: Callable[..., Path]) -> None:
    bundle = tiny_bundle()
    both = [
        subprocess.Popen(
            [sys.executable, "-c", OPENING, bundle], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate(timeout=60)[0] for process in both] == ["0.25\n", "0.25\n"]
    (entry,) = cache.iterdir()
    assert not entry.name.startswith(".")


def test_an_entry_that_disappears_meanwhile_is_compiled_anew(
    cache: Path, tiny_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has made room, or the user has."""
    import openvino

    bundle = tiny_bundle()
    gap_value(bundle)
    compile_model = openvino.Core.compile_model

    def cleared(self: Any, *arguments: Any) -> Any:
        shutil.rmtree(cache)
        return compile_model(self, *arguments)

    monkeypatch.setattr(openvino.Core, "compile_model", cleared)
    assert gap_value(bundle) == 0.25
