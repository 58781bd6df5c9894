"""Opening an engine, and running it on each backend."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from ecea.runtime import EceaError, RequestError, inpaint, open_engine
from ecea.runtime.backends import BACKENDS
from ecea.runtime.engine import by_reason
from ecea.runtime.errors import BackendUnavailable

SIZE = 32


def inputs(batch=1, seed=0):
    rng = np.random.default_rng(seed)
    image, edge = rng.random((batch, 3, SIZE, SIZE), np.float32), rng.random((batch, 1, SIZE, SIZE), np.float32)
    return image, edge, (rng.random((batch, 1, SIZE, SIZE)) < 0.3).astype(np.float32)


@pytest.fixture(params=["cpu", "openvino"])
def backend(request):
    """Each backend that can be imported here."""
    pytest.importorskip({"cpu": "onnxruntime", "openvino": "openvino"}[request.param])
    return request.param


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_an_engine_gives_what_its_model_computes(tiny_bundle, backend, batch):
    with open_engine(tiny_bundle(), backend=backend) as engine:
        assert (engine.engine, engine.backend, engine.tile_size, engine.found) == ("fp32", backend, SIZE, "named")
        image, edge, mask = inputs(batch)
        out, out_edge = engine.infer(image, edge, mask)
    assert (out.dtype, out_edge.dtype) == (np.float32, np.float32)
    assert (out.shape, out_edge.shape) == ((batch, 3, SIZE, SIZE), (batch, 1, SIZE, SIZE))
    assert out == pytest.approx(0.5 * image + 0.25 * mask, abs=1e-6)
    assert np.array_equal(out_edge, edge)


def test_a_result_is_the_callers_own(tiny_bundle, backend):
    with open_engine(tiny_bundle(), backend=backend) as engine:
        first, first_edge = engine.result(engine.submit(*inputs(seed=1)))
        kept, kept_edge = first.copy(), first_edge.copy()
        engine.infer(*inputs(seed=2))
        assert np.array_equal(first, kept)
        assert np.array_equal(first_edge, kept_edge)
        first[:] = 0  # and may be written to
    image, _, mask = inputs(seed=1)
    assert kept == pytest.approx(0.5 * image + 0.25 * mask, abs=1e-6)


def test_batches_of_changing_length_may_follow_one_another(tiny_bundle, backend):
    with open_engine(tiny_bundle(), backend=backend) as engine:
        for batch in (2, 1, 5, 2):
            image, edge, mask = inputs(batch, batch)
            assert engine.infer(image, edge, mask)[0] == pytest.approx(0.5 * image + 0.25 * mask, abs=1e-6)


def test_inputs_that_do_not_lie_in_one_piece_are_taken(tiny_bundle, backend):
    image, edge, mask = inputs(4)
    with open_engine(tiny_bundle(), backend=backend) as engine:
        out, _ = engine.infer(image[::2], edge[::2], mask[::2])
    assert out == pytest.approx(0.5 * image[::2] + 0.25 * mask[::2], abs=1e-6)


def test_a_scene_is_filled_through_a_real_backend(tiny_bundle, backend, tmp_path, write_scene, read_bands):
    values = np.full((3, 70, 50), 200, np.uint8)
    values[:, 20:25] = 0
    path = write_scene(tmp_path / "s.tif", values, nodata=0)
    with open_engine(tiny_bundle(), backend=backend) as engine:
        result = inpaint(path, tmp_path / "o.tif", engine)
    filled = read_bands(tmp_path / "o.tif")
    assert (filled[:, 20:25] == 64).all()  # 255 / 4, rounded
    assert (np.delete(filled, np.s_[20:25], axis=1) == 200).all()
    assert result.backend == backend
    manifest = (tmp_path / "tiny.ecea" / "manifest.json").read_bytes()
    assert result.bundle_sha256 == hashlib.sha256(manifest).hexdigest()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("image", np.zeros((1, 3, SIZE, SIZE))),
        ("image", np.zeros((1, 4, SIZE, SIZE), np.float32)),
        ("image", np.zeros((3, SIZE, SIZE), np.float32)),
        ("image", np.zeros((0, 3, SIZE, SIZE), np.float32)),
        ("edge", np.zeros((1, 1, SIZE, SIZE + 1), np.float32)),
        ("edge", np.zeros((2, 1, SIZE, SIZE), np.float32)),
        ("mask", np.zeros((1, 1, SIZE, SIZE), bool)),
        ("mask", np.zeros((1, SIZE, SIZE), np.float32)),
    ],
)
def test_wrong_inputs_are_told_with_what_was_expected(engine_of, name, wrong):
    given = dict(zip(("image", "edge", "mask"), inputs(), strict=True)) | {name: wrong}
    with pytest.raises(RequestError, match=rf"'{name}' is {wrong.dtype} of shape .*expected float32 of shape"):
        engine_of(0.5, SIZE).infer(**given)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_results_that_are_not_finite_are_an_error(engine_of, value):
    with pytest.raises(EceaError, match="values that are not finite"):
        engine_of(value, SIZE).infer(*inputs())
    image, edge, mask = inputs()
    edge[0, 0, 0, 0] = value  # which that engine gives back
    with pytest.raises(EceaError, match="values that are not finite"):
        engine_of(0.5, SIZE).infer(image, edge, mask)


def test_an_error_of_the_backend_is_told_as_one(engine_of):
    def fail(image, edge, mask):
        raise RuntimeError("out of something")

    with pytest.raises(EceaError, match=r"fake\.ecea: fake failed on a batch of 2: out of something") as caught:
        engine_of(fail, SIZE).infer(*inputs(2))
    assert not isinstance(caught.value, RequestError)


def test_a_closed_engine_says_so(engine_of):
    engine = engine_of(0.5, SIZE)
    with engine as opened:
        assert opened is engine
    engine.close()
    with pytest.raises(EceaError, match="the engine is closed"):
        engine.infer(*inputs())


def test_unknown_names_are_told_with_the_known_ones(tiny_bundle):
    path = tiny_bundle()
    with pytest.raises(RequestError, match="engine 'fp64' is unknown: expected one of fp32, fp16, int8"):
        open_engine(path, engine="fp64")
    with pytest.raises(RequestError, match=r"backend 'metal' is unknown: expected auto or one of .*cpu"):
        open_engine(path, backend="metal")


def test_an_engine_that_the_bundle_lacks_is_told_with_those_it_has(tiny_bundle):
    with pytest.raises(RequestError, match=r"tiny\.ecea: holds no int8 engine, only fp32, fp16: choose one of these"):
        open_engine(tiny_bundle(engines=("fp32", "fp16")), engine="int8")


def test_a_bundle_without_an_engine_is_told(tiny_bundle):
    with pytest.raises(
        RequestError, match=r"tiny\.ecea: holds no engine at all, expected one or more: export the bundle"
    ):
        open_engine(tiny_bundle(engines=()))


def test_a_damaged_bundle_is_not_opened_on_any_backend(tiny_bundle):
    path = tiny_bundle()
    weights = path / "generator.fp32.weights"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    for name in ("auto", "openvino", "cpu"):
        with pytest.raises(RequestError, match="has changed since it was exported"):
            open_engine(path, backend=name)


def broken_for(path, names):
    """Give some backends a model of their own that no runtime can load, with its right hash."""
    model = path / "broken.onnx"
    model.write_bytes(b"this is no model")
    manifest = json.loads((path / "manifest.json").read_text())
    (record,) = manifest["engines"]
    record["backends"] = [name for name in record["backends"] if name not in names]
    file = {"name": model.name, "sha256": hashlib.sha256(model.read_bytes()).hexdigest(), "size": 16}
    manifest["engines"].append({"engine": "fp32", "backends": names, "files": [file]})
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def test_auto_passes_over_a_backend_that_cannot_load_the_model_and_says_why(tiny_bundle):
    pytest.importorskip("openvino")
    with open_engine(broken_for(tiny_bundle(), ["openvino"])) as engine:
        assert engine.backend == "cpu"
        assert list(engine.passed_over) == ["tensorrt", "cuda", "openvino"]
        assert "OpenVINO cannot load it" in engine.passed_over["openvino"]


def test_a_named_backend_that_cannot_load_the_model_fails(tiny_bundle, backend):
    path = broken_for(tiny_bundle(), [backend])
    with pytest.raises(EceaError, match=r"broken\.onnx: .* cannot load it") as caught:
        open_engine(path, backend=backend)
    assert caught.value.exit_status == 1


def unavailable(name, monkeypatch):
    """Make a backend one that this machine lacks."""

    def load(model, threads):
        raise BackendUnavailable(f"no {name} on this machine")

    backend = BACKENDS[name]
    monkeypatch.setitem(BACKENDS, name, dataclasses.replace(backend, load=load, require=lambda engine: None))


def test_auto_takes_the_first_that_loads_and_says_why_not_the_others(tiny_bundle, monkeypatch):
    assert list(BACKENDS) == ["tensorrt", "cuda", "openvino", "cpu"]
    for name in ("tensorrt", "cuda"):
        unavailable(name, monkeypatch)
    why = {name: f"no {name} on this machine" for name in BACKENDS}
    with open_engine(tiny_bundle("a.ecea", backends=[*BACKENDS])) as engine:
        assert engine.backend == "openvino"
        assert engine.passed_over == {name: why[name] for name in ("tensorrt", "cuda")}
    unavailable("openvino", monkeypatch)
    with open_engine(tiny_bundle("b.ecea", backends=[*BACKENDS])) as engine:
        assert engine.backend == "cpu"
        assert engine.passed_over == {name: why[name] for name in ("tensorrt", "cuda", "openvino")}


def test_a_named_backend_never_falls_back(tiny_bundle, monkeypatch):
    unavailable("openvino", monkeypatch)
    with pytest.raises(
        RequestError, match=r"'openvino' that was named cannot run fp32 here \(no openvino on this machine\)"
    ):
        open_engine(tiny_bundle(), backend="openvino")


def test_where_no_backend_loads_each_says_why(tiny_bundle, monkeypatch):
    for name in BACKENDS:
        unavailable(name, monkeypatch)
    with pytest.raises(RequestError) as caught:
        open_engine(tiny_bundle(backends=[*BACKENDS]))
    for name in BACKENDS:
        assert f"{name}: no {name} on this machine" in str(caught.value)


def test_one_reason_for_several_backends_is_told_once():
    assert by_reason({}) == []
    reasons = {"tensorrt": "no NVIDIA driver", "cuda": "no NVIDIA driver", "openvino": "not here"}
    assert by_reason(reasons) == [("tensorrt and cuda", "no NVIDIA driver"), ("openvino", "not here")]


def test_a_backend_that_the_bundle_is_not_for_is_told(tiny_bundle):
    path = tiny_bundle()
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["engines"][0]["backends"] = ["openvino"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RequestError, match=r"'cpu' that was named .*\(the bundle holds no fp32 engine for it\)"):
        open_engine(path, backend="cpu")


def test_another_machine_is_not_blamed_for_what_the_bundle_is_not_for(tiny_bundle):
    """Before what this machine lacks: no driver would help."""
    path = tiny_bundle()
    with pytest.raises(RequestError, match=r"'cuda' that was named .*\(the bundle holds no fp32 engine for it\)"):
        open_engine(path, backend="cuda")


def test_without_another_engine_none_is_advised(tiny_bundle):
    path = tiny_bundle()
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["engines"][0]["backends"] = []
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        RequestError, match=r"no backend can run fp32 here .*: export the bundle again on this machine$"
    ):
        open_engine(path)


def test_the_bundle_is_looked_up_as_the_commands_do(tiny_bundle, tmp_path, monkeypatch):
    path = tiny_bundle()
    monkeypatch.delenv("ECEA_BUNDLE", raising=False)
    monkeypatch.chdir(tmp_path)
    with open_engine(backend="cpu") as engine:
        assert engine.found == "the only bundle in the current directory"
    monkeypatch.chdir("/")
    monkeypatch.setenv("ECEA_BUNDLE", str(path))
    with open_engine(backend="cpu") as engine:
        assert (engine.found, engine.bundle.path) == ("$ECEA_BUNDLE", path)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_nothing(tiny_bundle, backend, threads):
    image, edge, mask = inputs()
    with open_engine(tiny_bundle(), backend=backend, threads=threads) as engine:
        assert engine.infer(image, edge, mask)[0] == pytest.approx(0.5 * image + 0.25 * mask, abs=1e-6)


def test_openvino_is_imported_without_its_telemetry():
    code = (
        "from ecea.runtime.backends.openvino import _import_quietly; import sys; _import_quietly(); "
        "assert 'openvino' in sys.modules; "
        "assert not any(name.startswith('openvino_telemetry') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("first", ["ecea.runtime", "ecea.calibration"])
def test_onnx_runtime_is_imported_without_its_telemetry(tmp_path, first):
    # Where it is not kept out, it begins with an identity of the machine in the user's home.
    home = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    code = f"import {first}, onnxruntime; assert onnxruntime.get_available_providers()"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **home}, timeout=100)
    assert list(tmp_path.iterdir()) == []


# Brings arrays to OpenVINO's bindings from several threads, before any other has been brought.
FIRST_ARRAYS = """
import sys, threading, numpy as np
from ecea.runtime.backends.openvino import _import_quietly
openvino = _import_quietly()
sys.setswitchinterval(1e-6)
barrier = threading.Barrier(8)
def bring():
    barrier.wait()
    openvino.Tensor(np.zeros(1, np.float32))
threads = [threading.Thread(target=bring) for _ in range(8)]
for thread in threads:
    thread.start()
"""


def test_threads_that_bring_the_first_arrays_do_not_wait_for_one_another():
    """OpenVINO's bindings look numpy up at the first array, and two threads that made them do so waited for ever."""
    pytest.importorskip("openvino")
    for _ in range(3):
        subprocess.run([sys.executable, "-c", FIRST_ARRAYS], check=True, timeout=30)
