"""A checkpoint is evaluated through PyTorch, with the same pipeline."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from ecea.model import GeneratorConfig, UNet, load_generator  # noqa: E402
from ecea.model.untrained import untrained_state_dict  # noqa: E402
from ecea.runtime.errors import RequestError  # noqa: E402
from ecea.training.evaluation.checkpoint import open_checkpoint  # noqa: E402
from ecea.training.evaluation.methods import Case, GeneratorMethod  # noqa: E402

CONFIG = GeneratorConfig(img_size=64, embed_dim=8, depth=(1, 1, 1, 1))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "G_10.pth"
    torch.save(untrained_state_dict(CONFIG, seed=2), path)
    return path


def test_it_computes_what_the_generator_does(checkpoint: Path) -> None:
    rng = np.random.default_rng(0)
    image, edge = rng.random((2, 3, 64, 64), np.float32), rng.random((2, 1, 64, 64), np.float32)
    mask = (rng.random((2, 1, 64, 64)) < 0.3).astype(np.float32)
    with open_checkpoint(checkpoint, threads=1) as engine:
        assert (engine.tile_size, engine.backend, engine.engine) == (64, "pytorch", "fp32")
        out, out_edge = engine.infer(image, edge, mask)
    with torch.inference_mode():
        expected = load_generator(checkpoint)(*map(torch.from_numpy, (image, edge, mask)))
    assert out == pytest.approx(expected[0].numpy(), abs=1e-6)
    assert out_edge == pytest.approx(expected[1].numpy(), abs=1e-6)


def test_it_fills_gaps_alone(
    checkpoint: Path, noise: NDArray[np.uint8], hole: NDArray[np.bool_], scene_of_values: Callable[..., Any]
) -> None:
    case = Case(scene_of_values(noise), "gaps", hole)
    with open_checkpoint(checkpoint, threads=1) as engine:
        method = GeneratorMethod(engine, "G_10.pth")
        filled = method.fill(case)
    assert len(method.about["sha256"]) == 64
    assert filled.values[:, ~hole].tobytes() == noise[:, ~hole].tobytes()
    assert len(np.unique(filled.values[:, hole])) > 10


def test_a_unet_is_evaluated_too(
    tmp_path: Path, noise: NDArray[np.uint8], hole: NDArray[np.bool_], scene_of_values: Callable[..., Any]
) -> None:
    """Half a deviation brighter than the smooth fill, as it draws."""
    fills = []
    for brightness in (0.0, 0.5):
        unet = UNet(widths=(4, 8))
        assert unet.last.bias is not None
        torch.nn.init.constant_(unet.last.bias, brightness)
        torch.save(unet.state_dict(), tmp_path / "U_10.pth")
        with open_checkpoint(tmp_path / "U_10.pth", threads=1) as engine:
            assert engine.tile_size == 192
            filled = GeneratorMethod(engine, "U_10.pth").fill(Case(scene_of_values(noise), "gaps", hole))
        assert filled.values[:, ~hole].tobytes() == noise[:, ~hole].tobytes()
        fills.append(filled.values[:, hole].astype(float))
    assert (fills[1] - fills[0]).mean() == pytest.approx(noise.std() / 2, rel=0.25)
    with pytest.raises(RequestError, match=r"U_10\.pth is a U-Net, which has no attention heads"):
        open_checkpoint(tmp_path / "U_10.pth", num_heads=(1, 1, 1, 1))


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "G.pth"
    path.write_bytes(b"no tensors")
    with pytest.raises(RequestError, match=r"G\.pth cannot be read as a PyTorch checkpoint"):
        open_checkpoint(path)
    with pytest.raises(RequestError, match="does not exist"):
        open_checkpoint(tmp_path / "absent.pth")
    gray = replace(CONFIG, in_c=2, out_c=1)
    torch.save(untrained_state_dict(gray, seed=1), path)
    with pytest.raises(RequestError, match=r"G\.pth is a generator from 2 to 1 channels; expected one from 4 \(image"):
        open_checkpoint(path)
