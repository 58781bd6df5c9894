"""Finding a bundle, reading its manifest, and trusting none of its files."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecea.runtime.bundle import check_files, find_bundle, read_bundle
from ecea.runtime.errors import RequestError


def edit(bundle, **changes):
    """Change fields of a manifest; a field that becomes None is taken out."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in manifest.items() if value is not None}))
    return bundle


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current directory, and nothing in the environment."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("ECEA_BUNDLE", raising=False)
    return folder


def test_what_is_named_wins(here, monkeypatch):
    (here / "only.ecea").mkdir()
    monkeypatch.setenv("ECEA_BUNDLE", "from/the/environment.ecea")
    path, why = find_bundle("named/by/user.ecea")
    assert (str(path), why) == ("named/by/user.ecea", "named")


def test_the_environment_comes_before_the_current_directory(here, monkeypatch):
    (here / "only.ecea").mkdir()
    monkeypatch.setenv("ECEA_BUNDLE", "from/the/environment.ecea")
    path, why = find_bundle(None)
    assert (str(path), why) == ("from/the/environment.ecea", "$ECEA_BUNDLE")


def test_the_only_bundle_here_is_taken(here):
    (here / "only.ecea").mkdir()
    (here / "other.tif").write_text("")
    path, why = find_bundle(None)
    assert (path.resolve(), why) == (here / "only.ecea", "the only bundle in the current directory")


def test_no_bundle_here_is_told_with_what_to_do(here):
    with pytest.raises(RequestError, match=r"found no bundle.*--bundle or .*ecea-export CHECKPOINT"):
        find_bundle(None)


def test_several_bundles_here_are_named(here):
    for name in ("b.ecea", "a.ecea"):
        (here / name).mkdir()
    with pytest.raises(RequestError, match=r"found 2 bundles \(a\.ecea, b\.ecea\)"):
        find_bundle(None)


def test_a_manifest_is_read(tiny_bundle):
    bundle = read_bundle(tiny_bundle(engines=("fp32", "fp16")))
    assert bundle.tile_size == 32
    assert bundle.engine_names == ("fp32", "fp16")
    assert len(bundle.sha256) == 64
    record = bundle.record("fp16", "cpu")
    assert [file.name for file in record.files] == ["generator.fp16.onnx", "generator.fp16.weights"]
    assert check_files(bundle, record) == bundle.path / "generator.fp16.onnx"
    assert bundle.record("fp16", "tensorrt") is None
    assert bundle.record("int8", "cpu") is None


def test_two_manifests_that_differ_have_different_hashes(tiny_bundle):
    first = read_bundle(tiny_bundle("a.ecea"))
    assert read_bundle(edit(tiny_bundle("b.ecea"), note="another")).sha256 != first.sha256
    assert read_bundle(tiny_bundle("c.ecea")).sha256 == first.sha256


@pytest.mark.parametrize("position", [0, 100, -1])
@pytest.mark.parametrize("name", ["generator.fp32.onnx", "generator.fp32.weights"])
def test_a_changed_byte_in_any_file_is_told(tiny_bundle, name, position):
    path = tiny_bundle()
    content = bytearray((path / name).read_bytes())
    content[position] ^= 1
    (path / name).write_bytes(content)
    bundle = read_bundle(path)
    with pytest.raises(RequestError, match=rf"{name}: has sha256 .* has changed since it was exported"):
        check_files(bundle, bundle.record("fp32", "cpu"))


def test_a_truncated_file_is_told_with_its_size(tiny_bundle):
    path = tiny_bundle()
    weights = path / "generator.fp32.weights"
    whole = weights.stat().st_size
    weights.write_bytes(weights.read_bytes()[:1000])
    bundle = read_bundle(path)
    with pytest.raises(RequestError, match=rf"has 1000 bytes, the manifest says {whole}"):
        check_files(bundle, bundle.record("fp32", "cpu"))


def test_a_missing_file_is_told(tiny_bundle):
    path = tiny_bundle()
    (path / "generator.fp32.weights").unlink()
    bundle = read_bundle(path)
    with pytest.raises(RequestError, match=r"fp32\.weights: cannot be read \(No such file.*manifest names it"):
        check_files(bundle, bundle.record("fp32", "cpu"))


def test_what_is_no_bundle_is_told(tmp_path):
    (tmp_path / "file.ecea").write_text("")
    (tmp_path / "empty.ecea").mkdir()
    for name in ("file.ecea", "empty.ecea", "absent.ecea"):
        with pytest.raises(RequestError, match=rf"{name}: is not a bundle, manifest\.json cannot be read"):
            read_bundle(tmp_path / name)


def test_a_newer_schema_is_told(tiny_bundle):
    with pytest.raises(RequestError, match="has schema 2, this version of ecea reads schemas up to 1"):
        read_bundle(edit(tiny_bundle(), schema=2))


def test_a_newer_schema_is_told_whatever_else_it_holds(tiny_bundle):
    with pytest.raises(RequestError, match="has schema 7"):
        read_bundle(edit(tiny_bundle(), schema=7, engines=None, configuration="elsewhere"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'"text"',
        b"{}",
        b"\xff\xfe\x00",
        b'{"schema": "one"}',
        b'{"schema": null}',
        b'{"schema": 1e999}',
        b'{"schema": NaN}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_manifest_is_told(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(RequestError, match=r"manifest\.json: is damaged: export the bundle again"):
        read_bundle(tmp_path)


FILE = {"name": "a.onnx", "sha256": "0", "size": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"configuration": None},
        {"configuration": [1, 2]},
        {"configuration": {}},
        {"configuration": {"img_size": "large"}},
        {"configuration": {"img_size": 0}},
        {"configuration": {"img_size": -256}},
        {"configuration": {"img_size": float("inf")}},
        {"engines": None},
        {"engines": 7},
        {"engines": {"fp32": {}}},
        {"engines": ["fp32"]},
        {"engines": [{"engine": "fp32"}]},
        {"engines": [{"engine": "fp32", "backends": ["cpu"], "files": []}]},
        {"engines": [{"engine": "fp32", "backends": ["cpu"], "files": [{"name": "a.onnx"}]}]},
        {"engines": [{"engine": "fp32", "backends": 5, "files": [FILE]}]},
        {"engines": [{"engine": "fp32", "backends": ["cpu"], "files": [FILE], "parity": 5}]},
        {"engines": [{"engine": "fp32", "backends": ["cpu"], "files": [FILE | {"size": "big"}]}]},
    ],
)
def test_a_manifest_that_lacks_or_garbles_something_is_told(tiny_bundle, changes):
    with pytest.raises(RequestError, match=r"manifest\.json: lacks or garbles"):
        read_bundle(edit(tiny_bundle(), **changes))


PLAN_FILE = {"name": "generator.fp16.b4.plan", "sha256": "0", "size": 1}
PLAN = {
    "tensorrt": "11.4.0.106", "gpu": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0", "driver": "580.95.05",
    "batches": {"4": "generator.fp16.b4.plan"}, "plugin_sha256": None, "half_layers": 0.9,
    "device_memory_bytes": {"4": 7},
}  # fmt: skip


def with_plan(bundle, plan):
    """A bundle with plans, after the ONNX file that they were built of."""
    source = {"engine": "fp16", "backends": ["tensorrt", "cuda"], "files": [FILE]}
    record = {"engine": "fp16", "backends": ["tensorrt"], "files": [PLAN_FILE], "plan": plan}
    return read_bundle(edit(bundle, engines=[source, record]))


def test_plans_are_read_and_go_before_what_they_were_built_of(tiny_bundle):
    bundle = with_plan(tiny_bundle(), PLAN)
    plan = bundle.record("fp16", "tensorrt").plan
    assert (plan.tensorrt, plan.gpu, plan.compute_capability) == (PLAN["tensorrt"], PLAN["gpu"], "9.0")
    assert {batch: file.name for batch, file in plan.batches.items()} == {4: "generator.fp16.b4.plan"}
    assert (plan.half_layers, plan.plugin_sha256, plan.device_memory_bytes) == (0.9, None, {4: 7})
    assert bundle.record("fp16", "cuda").plan is None


@pytest.mark.parametrize(
    "changes",
    [
        {"batches": {}},
        {"batches": {"0": "generator.fp16.b4.plan"}},
        {"batches": {"four": "generator.fp16.b4.plan"}},
        {"batches": {"4": "a_file_without_a_hash.plan"}},
        {"batches": ["generator.fp16.b4.plan"]},
        {"half_layers": 1.5},
        {"half_layers": None},
        {"half_layers": float("nan")},
        {"device_memory_bytes": {"4": "much"}},
        {"device_memory_bytes": {"8": 7}},
        {"batches": {"4": PLAN_FILE["name"], "04": PLAN_FILE["name"]}},
        {"batches": {"1000000": PLAN_FILE["name"]}},
        {"gpu": None},
        {"compute_capability": "nine"},
    ],
)
def test_a_record_of_plans_that_is_garbled_is_told(tiny_bundle, changes):
    with pytest.raises(RequestError, match=r"manifest\.json: lacks or garbles .+: export the bundle again") as caught:
        with_plan(tiny_bundle(), PLAN | changes)
    assert "object has no attribute" not in str(caught.value)


def test_what_is_wrong_with_a_plan_is_named_with_what_was_found(tiny_bundle):
    bundle = tiny_bundle()
    with pytest.raises(RequestError, match=r"garbles a plan's half_layers \(5\.0, expected 0 to 1\), which schema 1"):
        with_plan(bundle, PLAN | {"half_layers": 5})
    with pytest.raises(RequestError, match=r"garbles a plan \('fast', expected what it was built with\)"):
        with_plan(bundle, "fast")


def test_a_plan_for_a_backend_that_cannot_run_it_is_refused(tiny_bundle):
    record = {"engine": "fp16", "backends": ["tensorrt", "openvino"], "files": [PLAN_FILE], "plan": PLAN}
    with pytest.raises(RequestError, match=r"a plan's backends \(\['tensorrt', 'openvino'\], expected tensorrt alone"):
        read_bundle(edit(tiny_bundle(), engines=[record]))


def test_a_file_of_less_than_no_bytes_is_refused(tiny_bundle):
    engines = [{"engine": "fp32", "backends": ["cpu"], "files": [FILE | {"size": -1}]}]
    with pytest.raises(RequestError, match="garbles the files of an engine"):
        read_bundle(edit(tiny_bundle(), engines=engines))


@pytest.mark.parametrize(
    "name", ["../outside.onnx", "/etc/passwd", "folder/a.onnx", "./a.onnx", "a/../b.onnx", "", ".", "..", "a\0.onnx"]
)
def test_a_file_outside_the_bundle_is_refused(tiny_bundle, name):
    engines = [{"engine": "fp32", "backends": ["cpu"], "files": [FILE, FILE | {"name": name}]}]
    with pytest.raises(RequestError, match="garbles the files of an engine"):
        read_bundle(edit(tiny_bundle(), engines=engines))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=150)
@given(
    st.fixed_dictionaries(
        {"schema": st.sampled_from([1, 0, "1", True])},
        optional={
            "configuration": JSON | st.fixed_dictionaries({"img_size": JSON}),
            "engines": JSON
            | st.lists(st.fixed_dictionaries({"engine": JSON, "backends": JSON, "files": JSON}), max_size=2),
        },
    )
)
def test_no_manifest_is_worse_than_refused(tmp_path_factory, manifest):
    folder = tmp_path_factory.mktemp("any")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    try:
        bundle = read_bundle(folder)
    except RequestError:
        return
    assert bundle.tile_size >= 1
    assert isinstance(bundle.engine_names, tuple)


def test_a_manifest_that_is_a_pipe_is_refused(tmp_path):
    """To read it would be to wait for whoever writes into it."""
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(RequestError, match=r"manifest\.json: is a device or a pipe, expected a file"):
        read_bundle(tmp_path)
