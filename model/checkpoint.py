"""Read a network from a checkpoint file, without running anything that the file holds."""

import os
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ecea.kernels.eager import expectation_attention
from ecea.model.config import COARSE, MOST_COARSE_LEVELS, config_from_shapes, unet_widths
from ecea.model.errors import CheckpointError
from ecea.model.generator import Generator
from ecea.model.layers import Attention
from ecea.model.unet import UNet

SAVE_AGAIN = "save it again with torch.save(network.state_dict(), path)"
NAMED = 3  # tensors that a sentence names before it counts the rest


def load_generator(
    path: str | PathLike[str],
    num_heads: Sequence[int] | None = None,
    attention: Attention = expectation_attention,
) -> Generator:
    """Load a checkpoint into the generator that it was saved from.

    Args:
        path: a checkpoint as :func:`read_state_dict` takes it.
        num_heads: attention heads at each of the four levels, which a checkpoint does not tell; 1, 2, 4, 8
            where not given.
        attention: the form of expectation attention to run; all forms compute the same function.

    Returns:
        The generator on the CPU, in float32 and in eval mode; its configuration, ``generator.config``, is
        read from the shapes of the tensors.

    Raises:
        CheckpointError: where the file cannot be read, is not a generator's, holds a NaN or an infinity, or
            where ``num_heads`` does not fit it.
    """
    path = Path(path)
    state = read_state_dict(path)
    if _is_unet(state):
        raise CheckpointError(
            f"{path} is the checkpoint of a U-Net; expected a generator's, such as G_10.pth: train one that refines "
            "its fill with ecea-train --coarse, or export the U-Net as it is with ecea-export"
        )
    return _generator(path, state, num_heads, attention)


def load_unet(path: str | PathLike[str], bands: int) -> UNet:
    """Read a U-Net from a checkpoint that ``ecea-train --network unet`` wrote, or from a generator that has one.

    Args:
        path: as :func:`read_state_dict` takes it.
        bands: that it has to have.

    Returns:
        The U-Net on the CPU, in float32 and in eval mode.

    Raises:
        CheckpointError: where the file cannot be read or has no U-Net of so many bands.
    """
    path = Path(path)
    unet = _unet(path, read_state_dict(path))
    _check_bands(path, unet, bands)
    return unet


def load_network(path: str | PathLike[str], num_heads: Sequence[int] | None, bands: int) -> Generator | UNet:
    """Load whichever network a checkpoint is of: a generator, or a U-Net that stands alone.

    Args:
        path, num_heads: as :func:`load_generator` takes them.
        bands: that it has to take, beside the mask, and to give.

    Raises:
        CheckpointError: where the file is neither's, of other bands, or is a U-Net's and ``num_heads`` are named.
    """
    path = Path(path)
    state = read_state_dict(path)
    if not _is_unet(state):
        generator = _generator(path, state, num_heads, expectation_attention)
        _check_bands(path, generator, bands)
        return generator
    if num_heads is not None:
        raise CheckpointError(f"{path} is a U-Net, which has no attention heads: leave num_heads (--num-heads) out")
    unet = _unet(path, state)
    _check_bands(path, unet, bands)
    return unet


def read_state_dict(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint.

    Args:
        path: ``.safetensors``, or with any other suffix a file of ``torch.save``: a state dict, or a dict
            that holds one as ``"state_dict"``.

    Returns:
        name -> tensor on the CPU, floating point as float32. A ``module.`` in front of every name, the mark
        of ``DataParallel``, is taken off.

    Raises:
        CheckpointError: where there is no such file, or it cannot be read, or it holds anything but tensors.
            Python objects in it are refused, not executed.
    """
    path = Path(path)
    start = _first_bytes(path)
    if path.suffix.lower() == ".safetensors":
        content: object = _read_safetensors(path)
    else:
        content = _read_pickle(path, start)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    tensors = _only_tensors(path, content)
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return {name: _as_float32(tensor) for name, tensor in tensors.items()}


def _generator(
    path: Path, state: Mapping[str, Tensor], num_heads: Sequence[int] | None, attention: Attention
) -> Generator:
    try:
        config = config_from_shapes({name: tuple(tensor.shape) for name, tensor in state.items()}, num_heads)
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from None
    # Built without memory of its own: it takes the checkpoint's tensors over, instead of initialising
    # 126 M parameters only to overwrite them.
    with torch.device("meta"):
        generator = Generator(config, attention)
    expected = generator.state_dict()
    _check_tensors(path, state, expected, "generator", "give a checkpoint of the published network")
    owned = {name: state[name].to(tensor.dtype).contiguous() for name, tensor in expected.items()}
    generator.load_state_dict(owned, assign=True)
    return generator.eval()


def _unet(path: Path, state: Mapping[str, Tensor]) -> UNet:
    if any(name.startswith(COARSE) for name in state):
        state = {name.removeprefix(COARSE): tensor for name, tensor in state.items() if name.startswith(COARSE)}
    try:
        if not _is_unet(state):
            raise KeyError
        found = len(state["last.bias"])
        widths = unet_widths({name: tuple(tensor.shape) for name, tensor in state.items()})
        # Without memory of its own, which a damaged file might ask for without end.
        with torch.device("meta"):
            unet = UNet(found, widths)
    except (KeyError, ValueError, IndexError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is not the checkpoint of a U-Net; expected one that ecea-train --network unet wrote, such as "
            "U_10.pth: name that"
        ) from error
    if len(widths) > MOST_COARSE_LEVELS:
        raise CheckpointError(
            f"{path} is a U-Net of {len(widths)} levels; expected {MOST_COARSE_LEVELS} at most, for any tile: train "
            "another"
        )
    _check_tensors(path, state, unet.state_dict(), "U-Net", "give a checkpoint that ecea-train --network unet wrote")
    unet.load_state_dict({name: tensor.contiguous() for name, tensor in state.items()}, assign=True)
    return unet.eval()


def _check_bands(path: Path, network: Generator | UNet, bands: int) -> None:
    """Raise CheckpointError unless a network takes and gives so many bands."""
    if isinstance(network, UNet):
        kind, channels = "U-Net", (network.bands + 1, network.bands)
    else:
        kind, channels = "generator", (network.config.in_c, network.config.out_c)
    if channels != (bands + 1, bands):
        raise CheckpointError(
            f"{path} is a {kind} from {channels[0]} to {channels[1]} channels; expected one from {bands + 1} (image "
            f"and mask) to {bands}: train another"
        )


def _is_unet(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of a U-Net that ``ecea-train --network unet`` made, by their names."""
    return "first.weight" in state and "last.weight" in state


def _first_bytes(path: Path) -> bytes:
    """The first bytes of a file that is there, can be read and is not empty."""
    wanted = "expected a checkpoint file (.pth, .pt or .safetensors)"
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):  # noqa: PTH110, PTH112, PTH113
        raise CheckpointError(f"{path} is a device or a pipe; {wanted}: give the path of a file")
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; {wanted}: check the path") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a directory; {wanted}: give the path of the file itself") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened ({error.strerror}); {wanted}") from error
    if not start:
        raise CheckpointError(f"{path} is empty; {wanted}: copy or download it again")
    return start


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors; expected a whole file of that format: it is cut short, "
            "damaged or of another kind, so copy or download it again"
        ) from error


def _read_pickle(path: Path, start: bytes) -> object:
    try:
        with warnings.catch_warnings():
            # torch warns about what it then refuses; the error below says it once.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    # Nothing narrower: on damaged or foreign files the unpickler also raises EOFError, KeyError, IndexError.
    except Exception as error:
        is_torch_file = start.startswith((b"PK", b"\x80"))  # a zip archive, or a bare pickle
        if isinstance(error, pickle.UnpicklingError) and is_torch_file:
            named = re.search(r"GLOBAL (\S+)", str(error))
            which = f" ({named[1]!r})" if named else ""
            raise CheckpointError(
                f"{path} holds Python objects other than tensors{which}, which could run code and were not "
                f"executed; expected a state dict: {SAVE_AGAIN}"
            ) from error
        raise CheckpointError(
            f"{path} cannot be read as a PyTorch checkpoint; expected a whole file of torch.save: it is cut "
            f"short, damaged or of another kind, so copy or download it again, or {SAVE_AGAIN}"
        ) from error


def _only_tensors(path: Path, content: object) -> dict[str, Tensor]:
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds an object of type {type(content).__name__}; expected a dict of tensors by name: {SAVE_AGAIN}"
        )
    if not content:
        raise CheckpointError(f"{path} holds no tensors; expected a state dict: {SAVE_AGAIN}")
    others = [
        f"{name!r} ({type(value).__name__})"
        for name, value in content.items()
        if not (isinstance(name, str) and _is_dense(value))
    ]
    if others:
        raise CheckpointError(
            f"{path} holds entries that are not dense tensors by name, {_first_few(others)}; expected a "
            f"state dict and nothing else: {SAVE_AGAIN}"
        )
    # A view that repeats its elements is a few bytes in the file and may be terabytes once it is computed with.
    size = path.stat().st_size
    if expanded := [name for name, tensor in content.items() if tensor.numel() * tensor.itemsize > size]:
        name = expanded[0]
        raise CheckpointError(
            f"{path} holds '{name}' with {content[name].numel()} elements in a file of {size} bytes; expected tensors "
            f"that are stored whole: {SAVE_AGAIN}"
        )
    return content


def _as_float32(tensor: Tensor) -> Tensor:
    return (tensor.float() if tensor.is_floating_point() else tensor).detach()


def _is_dense(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta


def _check_tensors(
    path: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor], network: str, advice: str
) -> None:
    """Raise one sentence on every tensor that is absent, surplus, of another shape or type, or not finite."""
    missing = [repr(name) for name in expected if name not in state]
    surplus = [repr(name) for name in state if name not in expected]
    unlike = [
        f"'{name}' is {_describe(state[name])}, expected {_describe(tensor)}"
        for name, tensor in expected.items()
        if name in state and not _fits(state[name], tensor)
    ]
    faults = []
    if missing:
        faults.append(f"lacks {_first_few(missing)}")
    if surplus:
        faults.append(f"holds {_first_few(surplus)}, which the {network} does not have")
    if unlike:
        faults.append(f"differs in {_first_few(unlike)}")
    if faults:
        raise CheckpointError(
            f"{path} {'; '.join(faults)}; expected the {len(expected)} tensors of an ECEA {network}: {advice}"
        )
    wild = [repr(name) for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())]
    if wild:
        raise CheckpointError(
            f"{path} holds a NaN or an infinity in {_first_few(wild)}; expected finite float32 weights: give "
            "a checkpoint from before training diverged"
        )


def _fits(found: Tensor, expected: Tensor) -> bool:
    # A counter may be floating point, as in a state dict cast to half: it plays no part in eval mode.
    return found.shape == expected.shape and (found.is_floating_point() or not expected.is_floating_point())


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _first_few(items: Iterable[str]) -> str:
    listed = list(items)
    rest = len(listed) - NAMED
    return ", ".join(listed[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
