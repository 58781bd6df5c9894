"""What an export prints of its bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecea.export.table import print_bundle
from ecea.runtime.bundle import Bundle, BundleFile, EngineRecord


def test_sizes_and_speeds_are_in_the_units_of_their_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That of an engine is its file's with the weights'; that of the bundle is what lies in its folder."""
    sizes = {"a.onnx": 1_600_000, "a.weights": 3_000_000}
    for name, size in {**sizes, "manifest.json": 2_100_000}.items():
        (tmp_path / name).write_bytes(bytes(size))
    measured = {"output": "out", "arithmetic": "f32", "max_error": 1.23e-5, "missing_psnr_db": 98.76}
    record = EngineRecord(
        "fp32",
        ("openvino", "cuda"),
        tuple(BundleFile(name, "0", size) for name, size in sizes.items()),
        parity=({**measured, "backend": "openvino", "times_pytorch": 2.345}, {**measured, "backend": "cuda"}),
    )
    print_bundle(Bundle(tmp_path, "0", {}, (record,)))
    _, *rows, last = capsys.readouterr().out.splitlines()
    assert [row.split() for row in rows] == [
        ["fp32", "a.onnx", "openvino", "5", "2.35", "1.2e-05", "98.8"],
        ["fp32", "a.onnx", "cuda", "5", "1.2e-05", "98.8"],
    ]
    assert last == f"bundle      {tmp_path}: fp32; 7 MB"
