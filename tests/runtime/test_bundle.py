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


ADVICE = "the bundle is damaged; copy it again, whole, or export it again"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", r"is not JSON \(Expecting value"),
        (b"{", r"is not JSON \("),
        (b"\xff\xfe\x00", r"is not JSON \("),
        (b"[" * 100_000, r"is not JSON \("),
        (b"[]", r"is \[\], expected an object"),
        (b"null", "is null, expected an object"),
        (b"7", "is 7, expected an object"),
        (b'"text"', 'is "text", expected an object'),
        (b"{}", "schema is missing, expected a whole number, 1 or more"),
        (b'{"schema": "one"}', 'schema is "one", expected a whole number'),
        (b'{"schema": null}', "schema is null, expected a whole number"),
        (b'{"schema": 0}', "schema is 0, expected a whole number"),
        (b'{"schema": true}', "schema is true, expected a whole number"),
        (b'{"schema": 1e999}', "schema is Infinity, expected a whole number"),
        (b'{"schema": NaN}', "schema is NaN, expected a whole number"),
    ],
)
def test_a_damaged_manifest_is_told(tmp_path, content, found):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(RequestError, match=rf"manifest\.json: {found}.*: {ADVICE}$"):
        read_bundle(tmp_path)


FILE = {"name": "a.onnx", "sha256": "0", "size": 1}
ENGINE = {"engine": "fp32", "backends": ["cpu"], "files": [FILE]}


def engine_with(**changes):
    """A manifest's changes: one engine, with entries that are changed, or taken out by None."""
    return {"engines": [{name: value for name, value in (ENGINE | changes).items() if value is not None}]}


def tensor(*shape):
    return {"name": "x", "dtype": "float32", "shape": ["batch", *shape]}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"configuration": None}, "configuration is missing, expected an object"),
        ({"configuration": [1, 2]}, r"configuration is \[1, 2\], expected an object"),
        ({"configuration": {}}, "configuration.img_size is missing, expected a whole number, 1 to 4096"),
        ({"configuration": {"img_size": "large"}}, 'configuration.img_size is "large", expected a whole number'),
        ({"configuration": {"img_size": 32.0}}, r"configuration.img_size is 32\.0, expected a whole number"),
        ({"configuration": {"img_size": 0}}, "configuration.img_size is 0, expected a whole number, 1 to 4096"),
        ({"configuration": {"img_size": -256}}, "configuration.img_size is -256, expected"),
        ({"configuration": {"img_size": 4097}}, "configuration.img_size is 4097, expected"),
        ({"configuration": {"img_size": True}}, "configuration.img_size is true, expected a whole number"),
        ({"configuration": {"img_size": float("inf")}}, "configuration.img_size is Infinity, expected"),
        (
            {"inputs": [tensor(3, 32, 32), tensor(1, 64, 64)]},
            r"inputs\[1\].shape is .*64\], .* ends in 32, 32, as config",
        ),
        ({"outputs": [{"shape": 3}]}, r"outputs\[0\].shape is 3, expected one that ends in 32, 32"),
        ({"engines": None}, "engines is missing, expected a list"),
        ({"engines": 7}, "engines is 7, expected a list"),
        ({"engines": {"fp32": {}}}, r'engines is {"fp32": {}}, expected a list'),
        ({"engines": ["fp32"]}, r'engines\[0\] is "fp32", expected an object'),
        (engine_with(engine=None), r"engines\[0\].engine is missing, expected a text"),
        (engine_with(files=None), r"engines\[0\].files is missing, expected a list"),
        (engine_with(files=[]), r"engines\[0\].files is \[\], expected one file or more"),
        (engine_with(files=[FILE, {"name": "b.onnx"}]), r"engines\[0\].files\[1\].sha256 is missing, expected a text"),
        (engine_with(engine=""), r'engines\[0\].engine is "", expected a text'),
        (engine_with(backends=5), r"engines\[0\].backends is 5, expected a list"),
        (engine_with(parity=5), r"engines\[0\].parity is 5, expected a list"),
        (engine_with(arithmetic=["f32", 7]), r"engines\[0\].arithmetic\[1\] is 7, expected a text"),
        (engine_with(quantization=7), r"engines\[0\].quantization is 7, expected an object"),
        (
            engine_with(files=[FILE | {"size": "big"}]),
            r'engines\[0\].files\[0\].size is "big", expected a whole number',
        ),
        (
            engine_with(files=[FILE | {"size": -1}]),
            r"engines\[0\].files\[0\].size is -1, expected a whole number, 0 or",
        ),
        (engine_with(files=[FILE | {"size": "9" * 99}]), r'engines\[0\].files\[0\].size is "9{59}\.\.\., expected'),
    ],
)
def test_an_entry_that_is_not_what_it_should_be_is_named_with_what_was_found(tiny_bundle, changes, found):
    with pytest.raises(RequestError, match=rf"tiny\.ecea/manifest\.json: {found}.*: {ADVICE}$"):
        read_bundle(edit(tiny_bundle(), **changes))


@pytest.mark.parametrize("size", [1, 4096])
def test_the_smallest_and_the_largest_tile_are_read(tiny_bundle, size):
    assert read_bundle(edit(tiny_bundle(), configuration={"img_size": size})).tile_size == size


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
    ("changes", "found"),
    [
        ({"batches": {}}, "batches is {}, expected tiles in a batch"),
        ({"batches": {"0": "generator.fp16.b4.plan"}}, "batches is .*, expected tiles in a batch"),
        ({"batches": {"four": "generator.fp16.b4.plan"}}, "batches is .*, expected tiles in a batch"),
        ({"batches": {"4": PLAN_FILE["name"], "04": PLAN_FILE["name"]}}, "batches is .*, expected tiles in a batch"),
        ({"batches": {"1000000": PLAN_FILE["name"]}}, "batches is .*, expected tiles in a batch"),
        ({"batches": ["generator.fp16.b4.plan"]}, "batches is .*, expected an object"),
        ({"batches": {"4": "without_a_hash.plan"}}, 'batches.4 is "without_a_hash.plan", expected one of the engine'),
        ({"half_layers": 1.5}, "half_layers is 1.5, expected a number, 0 to 1"),
        ({"half_layers": -0.5}, "half_layers is -0.5, expected a number, 0 to 1"),
        ({"half_layers": True}, "half_layers is true, expected a number, 0 to 1"),
        ({"half_layers": None}, "half_layers is null, expected a number, 0 to 1"),
        ({"half_layers": float("nan")}, "half_layers is NaN, expected a number, 0 to 1"),
        ({"device_memory_bytes": {"4": "much"}}, 'device_memory_bytes.4 is "much", expected a whole number'),
        ({"device_memory_bytes": {"8": 7}}, r"device_memory_bytes is .*, expected bytes for each of \[4\] tiles"),
        ({"gpu": None}, "gpu is null, expected a text"),
        ({"compute_capability": "nine"}, 'compute_capability is "nine", expected one such as 9.0'),
    ],
)
def test_an_entry_of_a_plan_that_is_not_what_it_should_be_is_named(tiny_bundle, changes, found):
    with pytest.raises(RequestError, match=rf"manifest\.json: engines\[1\]\.plan\.{found}"):
        with_plan(tiny_bundle(), PLAN | changes)


def test_a_plan_that_is_none_is_named(tiny_bundle):
    with pytest.raises(RequestError, match=r'engines\[1\]\.plan is "fast", expected an object'):
        with_plan(tiny_bundle(), "fast")


def test_a_plan_for_a_backend_that_cannot_run_it_is_refused(tiny_bundle):
    record = {"engine": "fp16", "backends": ["tensorrt", "openvino"], "files": [PLAN_FILE], "plan": PLAN}
    with pytest.raises(RequestError, match=r'backends is \["tensorrt", "openvino"\], expected tensorrt alone'):
        read_bundle(edit(tiny_bundle(), engines=[record]))


@pytest.mark.parametrize(
    "name", ["../outside.onnx", "/etc/passwd", "folder/a.onnx", "./a.onnx", "a/../b.onnx", "", ".", "..", "a\0.onnx"]
)
def test_a_file_outside_the_bundle_is_refused(tiny_bundle, name):
    with pytest.raises(RequestError, match=r"manifest\.json: engines\[0\]\.files\[1\]\.name is .*, expected "):
        read_bundle(edit(tiny_bundle(), **engine_with(files=[FILE, FILE | {"name": name}])))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150)
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
