"""A compact bundle: its weights are a checkpoint, and its engines are that checkpoint's."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import load_file, save_file

from ecea.export.compact_bundle import WEIGHTS, export_compact, refer_to
from ecea.export.exportable import UNET_TILE
from ecea.model import GeneratorConfig, UNet, load_generator, load_unet
from ecea.model.untrained import untrained_state_dict
from ecea.runtime.bundle import MANIFEST_NAME, Bundle
from ecea.runtime.engine import open_engine
from ecea.runtime.errors import RequestError

# Other heads than a checkpoint is taken to have.
CONFIG = GeneratorConfig(img_size=64, embed_dim=8, depth=(1, 1, 1, 1), num_heads=(2, 2, 2, 2), refine=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "small.pth"
    torch.save(untrained_state_dict(CONFIG, seed=5), path)
    return path


@pytest.fixture(scope="module")
def compact(checkpoint: Path) -> Bundle:
    return export_compact(checkpoint, checkpoint.with_name("small.ecea"), num_heads=CONFIG.num_heads)


def test_the_weights_are_the_checkpoint_in_half_the_space(compact: Bundle, checkpoint: Path) -> None:
    stored, original = load_file(compact.path / WEIGHTS), torch.load(checkpoint, weights_only=True)
    assert stored.keys() == original.keys()
    for name, tensor in original.items():
        assert stored[name].dtype == (torch.float16 if tensor.ndim >= 2 else tensor.dtype)
        torch.testing.assert_close(stored[name].to(tensor.dtype), tensor, rtol=2**-11, atol=1e-7)
    assert load_generator(compact.path / WEIGHTS, CONFIG.num_heads).config == CONFIG
    assert compact.configuration["num_heads"] == [2, 2, 2, 2]
    graphs = sum(path.stat().st_size for path in compact.path.glob("*.onnx"))
    assert graphs < 0.2 * checkpoint.stat().st_size


def test_the_manifest_names_the_checkpoint_that_the_bundle_is_made_of(compact: Bundle, checkpoint: Path) -> None:
    manifest = json.loads((compact.path / MANIFEST_NAME).read_text())
    assert manifest["checkpoint"] == {
        "name": "small.pth", "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
    }  # fmt: skip


@pytest.mark.parametrize("backend", ["openvino", "cpu"])
def test_its_engines_compute_what_the_rounded_checkpoint_does(backend: str, compact: Bundle) -> None:
    rng = np.random.default_rng(0)
    image = rng.random((2, 3, 64, 64), np.float32)
    mask = np.zeros((2, 1, 64, 64), np.float32)
    mask[:, :, 20:29] = 1
    edge = rng.random((2, 1, 64, 64), np.float32)
    with torch.inference_mode():
        inputs = map(torch.from_numpy, (image * (1 - mask), edge, mask))
        expected = load_generator(compact.path / WEIGHTS, CONFIG.num_heads)(*inputs)[0].numpy()
    for engine in ("fp32", "fp16"):
        with open_engine(compact.path, engine=engine, backend=backend) as opened:
            out, _ = opened.infer(image * (1 - mask), edge, mask)
        assert out == pytest.approx(expected, abs=1e-5 if engine == "fp32" else 3e-2)


def test_of_a_u_net_the_u_net_alone_is_stored(tmp_path: Path) -> None:
    torch.manual_seed(3)
    unet = UNet(3, (4, 6, 8)).eval()
    torch.nn.init.normal_(unet.last.weight, std=0.3)
    torch.save(unet.state_dict(), tmp_path / "U.pth")
    bundle = export_compact(tmp_path / "U.pth", tmp_path / "U.ecea")
    assert load_unet(bundle.path / WEIGHTS, 3).widths == (4, 6, 8)
    assert load_file(bundle.path / WEIGHTS).keys() == unet.state_dict().keys()
    mask = torch.zeros(1, 1, UNET_TILE, UNET_TILE)
    mask[..., 40:48, :] = 1
    image, edge = torch.rand(1, 3, UNET_TILE, UNET_TILE) * (1 - mask), torch.zeros(1, 1, UNET_TILE, UNET_TILE)
    with torch.inference_mode():
        expected = load_unet(bundle.path / WEIGHTS, 3)(image, edge, mask)[0].numpy()
    for backend in ("openvino", "cpu"):
        with open_engine(bundle.path, engine="fp32", backend=backend) as opened:
            assert opened.infer(image.numpy(), edge.numpy(), mask.numpy())[0] == pytest.approx(expected, abs=1e-5)


def refusal(checkpoint: Path) -> str:
    """The sentence; nothing is written."""
    before = sorted(checkpoint.parent.iterdir())
    with pytest.raises(RequestError) as refused:
        export_compact(checkpoint, checkpoint.with_name("G.ecea"))
    assert sorted(checkpoint.parent.iterdir()) == before
    return str(refused.value)


def test_other_channels_are_refused(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, in_c=5, refine=False)
    torch.save(untrained_state_dict(config, seed=1), tmp_path / "G.pth")
    assert refusal(tmp_path / "G.pth").startswith(f"{tmp_path / 'G.pth'} is a generator from 5 to 3 channels; expected")


def test_what_fp16_does_not_hold_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)
    state["out_concat.weight"].view(-1)[1] = -70000
    torch.save(state, tmp_path / "G.pth")
    assert refusal(tmp_path / "G.pth").startswith(
        f"{tmp_path / 'G.pth'}: 'out_concat.weight' reaches 70000, expected at most 65504"
    )


def test_weights_of_another_generator_are_refused(compact: Bundle, tmp_path: Path) -> None:
    path = tmp_path / WEIGHTS
    save_file({"a": torch.zeros(3, 3)}, path)
    model = ir.load(compact.path / "generator.fp32.onnx")
    with pytest.raises(ValueError, match=r"does not hold '.+', \[.+\] of FLOAT16"):
        refer_to(path, model)


def test_matrices_are_found_as_they_are_and_transposed(tmp_path: Path) -> None:
    matrix = torch.arange(60 * 20, dtype=torch.float32).reshape(60, 20).half()
    save_file({"m": matrix}, tmp_path / "w.safetensors")
    for tensor in (matrix, matrix.T.contiguous()):
        value = ir.Value(name="m", const_value=ir.tensor(tensor.numpy()), shape=ir.Shape(tensor.shape))
        value.type = ir.TensorType(ir.DataType.FLOAT16)
        node = ir.node("Identity", [value])
        graph = ir.Graph([], node.outputs, nodes=[node], initializers=[value], opset_imports={"": 20})
        refer_to(tmp_path / "w.safetensors", ir.Model(graph, ir_version=10))
        reader = next(n for n in graph if n.op_type == "Identity")
        source = reader.inputs[0]
        assert source is not None
        (stored,) = graph.initializers.values()
        assert stored.const_value is not None
        read = stored.const_value.numpy()
        turned = source.producer() is not None
        assert np.array_equal(read.T if turned else read, tensor.numpy())


def test_both_processors_backends_were_compared(compact: Bundle) -> None:
    assert {entry["backend"] for record in compact.engines for entry in record.parity} == {"openvino", "cpu"}
