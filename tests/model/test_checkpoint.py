"""Checkpoints load whatever they are wrapped in; anything else is refused in one sentence."""

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ecea.kernels import op
from ecea.model import CheckpointError, GeneratorConfig, load_generator
from ecea.model.checkpoint import read_state_dict
from ecea.model.untrained import untrained_state_dict

State = dict[str, Tensor]
CONFIG = GeneratorConfig(img_size=64, embed_dim=8, depth=(1, 2, 1, 1))


@pytest.fixture(scope="module")
def state() -> State:
    return untrained_state_dict(CONFIG, seed=5)


def save(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def refusal(path: Path, **options: Any) -> str:
    """The one sentence that loading ends with."""
    with pytest.raises(CheckpointError) as caught:
        load_generator(path, **options)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path} ")
    assert "\n" not in sentence
    assert "expected" in sentence
    return sentence


def assert_holds(path: Path, state: State, **options: Any) -> None:
    generator = load_generator(path, **options)
    loaded = generator.state_dict()
    assert list(loaded) == list(state)
    for name, tensor in state.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor), name
    assert not generator.training


def test_a_bare_state_dict(state: State, tmp_path: Path) -> None:
    path = save(state, tmp_path / "bare.pth")
    assert_holds(path, state)
    assert load_generator(path).config == CONFIG
    assert_holds(path=tmp_path / "bare.pth", state=state, num_heads=(2, 2, 2, 2))


def test_a_path_may_be_a_string(state: State, tmp_path: Path) -> None:
    assert load_generator(str(save(state, tmp_path / "bare.pt"))).config == CONFIG


def test_a_wrapped_state_dict(state: State, tmp_path: Path) -> None:
    assert_holds(save({"state_dict": state, "epoch": 500}, tmp_path / "wrapped.pt"), state)


def test_the_format_of_old_torch_versions(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_holds(tmp_path / "old.pth", state)


def test_a_data_parallel_prefix(state: State, tmp_path: Path) -> None:
    prefixed = {f"module.{name}": tensor for name, tensor in state.items()}
    assert_holds(save(prefixed, tmp_path / "parallel.pth"), state)
    assert_holds(save({"state_dict": prefixed}, tmp_path / "both.pth"), state)


def test_safetensors(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "generator.safetensors")
    assert_holds(tmp_path / "generator.safetensors", state)


def test_every_form_gives_the_same_outputs(state: State, tmp_path: Path) -> None:
    save_file({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "a.safetensors")
    save({"state_dict": state}, tmp_path / "a.pth")
    inputs = torch.rand(1, 3, 64, 64), torch.rand(1, 1, 64, 64), torch.zeros(1, 1, 64, 64)
    with torch.no_grad():
        first, second = (load_generator(tmp_path / name)(*inputs) for name in ("a.pth", "a.safetensors"))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_become_float32(state: State, tmp_path: Path, dtype: torch.dtype) -> None:
    # Like ``generator.half().state_dict()``, but the counters too, as careless conversions make them.
    cast = {name: tensor.to(dtype) for name, tensor in state.items()}
    assert_holds(
        save(cast, tmp_path / "cast.pth"),
        {name: cast[name].to(tensor.dtype) for name, tensor in state.items()},
    )


def test_reading_casts_floating_point_alone(tmp_path: Path) -> None:
    path = save({"a": torch.ones(2).half(), "b": torch.ones(2).double(), "n": torch.tensor(3)}, tmp_path / "x")
    assert [tensor.dtype for tensor in read_state_dict(path).values()] == [
        torch.float32,
        torch.float32,
        torch.int64,
    ]


def test_parameters_and_odd_strides_are_taken(state: State, tmp_path: Path) -> None:
    odd: State = {
        name: torch.nn.Parameter(tensor.to(memory_format=torch.channels_last)) if tensor.ndim == 4 else tensor
        for name, tensor in state.items()
    }
    path = save(odd, tmp_path / "odd.pth")
    assert_holds(path, state)
    assert all(tensor.is_contiguous() for tensor in load_generator(path).state_dict().values())
    assert not any(tensor.requires_grad for tensor in read_state_dict(path).values())


def test_the_attention_asked_for_is_used(state: State, tmp_path: Path) -> None:
    generator = load_generator(save(state, tmp_path / "g.pth"), attention=op.expectation_attention)
    used: object = generator.get_submodule("encoder8.blocks.0.attn").attention
    assert used is op.expectation_attention


def test_heads_set_the_configuration(state: State, tmp_path: Path) -> None:
    generator = load_generator(save(state, tmp_path / "g.pth"), num_heads=[1, 1, 2, 2])
    assert generator.config.num_heads == (1, 1, 2, 2)
    assert generator.get_submodule("decoder16.blocks.0.attn").num_heads == 2


# What cannot be read


def test_no_such_file(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "absent.pth")


def test_a_directory(tmp_path: Path) -> None:
    for name in ("folder.pth", "folder.safetensors"):
        (tmp_path / name).mkdir()
        assert "is a directory" in refusal(tmp_path / name)


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    assert "cannot be opened (File name too long)" in refusal(tmp_path / ("long" * 100))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_an_empty_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"empty.{suffix}"
    path.touch()
    assert "is empty" in refusal(path)


@pytest.mark.parametrize("share", [0.00001, 0.1, 0.9999])
@pytest.mark.parametrize("form", ["zip", "old", "safetensors"])
def test_a_truncated_file(state: State, tmp_path: Path, form: str, share: float) -> None:
    path = tmp_path / ("cut.safetensors" if form == "safetensors" else "cut.pth")
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: max(5, int(len(whole) * share))])
    assert "cut short, damaged or of another kind" in refusal(path)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"hello world", b"<!DOCTYPE html><html>", b"\x89PNG\r\n\x1a\n" + bytes(100), b"\x7fELF" * 9],
    ids=["text", "web page", "PNG", "ELF"],
)
def test_a_file_of_another_kind(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"other.{suffix}"
    path.write_bytes(content)
    assert "damaged or of another kind" in refusal(path)


def test_a_torch_script_archive(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = tmp_path / "script.pt"
    traced: torch.jit.ScriptModule = torch.jit.trace(  # type: ignore[no-untyped-call]
        torch.nn.Linear(2, 2), torch.zeros(1, 2)
    )
    torch.jit.save(traced, path)
    recwarn.clear()
    assert "cannot be read as a PyTorch checkpoint" in refusal(path)
    assert not recwarn.list  # the sentence is all that a user sees


# What must not run


class Attack:
    """Pickled, it is a call of ``os.system`` at loading."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.witness}'",)


def write_torch(content: object, path: Path) -> None:
    torch.save(content, path)


def write_old_torch(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def write_new_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=4))


def test_a_view_that_is_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    """It may be terabytes once it is computed with."""
    path = save({"out.bias": torch.zeros(1).expand(600)}, tmp_path / "view.pth")
    size = path.stat().st_size
    assert 600 < size < 4 * 600
    assert f"holds 'out.bias' with 600 elements in a file of {size} bytes" in refusal(path)


@pytest.mark.parametrize("write", [write_torch, write_old_torch, write_pickle, write_new_pickle])
def test_code_in_a_checkpoint_is_not_executed(tmp_path: Path, write: Callable[[object, Path], None]) -> None:
    path, witness = tmp_path / "attack.pth", tmp_path / "witness"
    write({"out.bias": Attack(witness)}, path)
    sentence = refusal(path)
    assert not witness.exists()
    assert "holds Python objects other than tensors" in sentence
    assert "were not executed" in sentence
    if write is write_torch:
        assert f"('{os.system.__module__}.system')" in sentence
        # The attack is a real one: a loader that trusts the file would have run it.
        torch.load(path, weights_only=False)
        assert witness.exists()


def test_a_whole_module_is_refused_by_name(tmp_path: Path) -> None:
    sentence = refusal(save(torch.nn.Linear(2, 2), tmp_path / "module.pth"))
    assert "('torch.nn.modules.linear.Linear')" in sentence
    assert "torch.save(network.state_dict(), path)" in sentence


# What is no generator


def test_no_dict(tmp_path: Path) -> None:
    assert "holds an object of type list" in refusal(save([torch.ones(2)], tmp_path / "list.pth"))


def test_no_tensors(tmp_path: Path) -> None:
    contents: list[object] = [{}, {"state_dict": {}}]
    for content in contents:
        assert "holds no tensors" in refusal(save(content, tmp_path / "none.pth"))


def test_a_training_checkpoint(state: State, tmp_path: Path) -> None:
    content = {"epoch": 3, "generator": state, "optimizer": {}, "loss": 0.1, 7: torch.ones(1)}
    sentence = refusal(save(content, tmp_path / "training.pth"))
    assert "'epoch' (int), 'generator' (dict), 'optimizer' (dict) and 2 more" in sentence


def test_tensors_without_numbers(state: State, tmp_path: Path) -> None:
    name = "concat16.bias"
    for odd in (state[name].to_sparse(), state[name].to("meta")):
        assert f"'{name}' (Tensor)" in refusal(save(state | {name: odd}, tmp_path / "odd.pth"))


def test_another_network(tmp_path: Path) -> None:
    sentence = refusal(save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth"))
    assert "holds no tensor 'patch_embed.proj.weight'" in sentence


def test_heads_that_do_not_divide(state: State, tmp_path: Path) -> None:
    sentence = refusal(save(state, tmp_path / "g.pth"), num_heads=(1, 3, 4, 8))
    assert "levels of [8, 16, 32, 64] channels, which [1, 3, 4, 8] attention heads do not divide" in sentence
    assert "--num-heads" in sentence


def test_missing_tensors(state: State, tmp_path: Path) -> None:
    less = {name: tensor for name, tensor in state.items() if not name.startswith("res_block6")}
    assert " lacks 'res_block6.0.weight'; expected the " in refusal(save(less, tmp_path / "less.pth"))
    less = {name: tensor for name, tensor in state.items() if not name.startswith("decoder16.norm")}
    less.pop("concat16.weight")
    less.pop("concat16.bias")
    sentence = refusal(save(less, tmp_path / "less.pth"))
    assert " lacks 'concat16.weight', 'concat16.bias', 'decoder16.norm.weight' and 1 more; " in sentence


def test_surplus_tensors(state: State, tmp_path: Path) -> None:
    more = state | {f"extra{i}": torch.ones(1) for i in range(5)}
    sentence = refusal(save(more, tmp_path / "more.pth"))
    assert " holds 'extra0', 'extra1', 'extra2' and 2 more, which the generator does not have" in sentence


def test_a_prefix_that_only_some_names_have_is_part_of_them(state: State, tmp_path: Path) -> None:
    mixed = state | {"module.concat16.bias": state["concat16.bias"]}
    assert "holds 'module.concat16.bias', which" in refusal(save(mixed, tmp_path / "mixed.pth"))


def test_tensors_of_another_shape_or_type(state: State, tmp_path: Path) -> None:
    other = state | {
        "out.block1.0.bias": torch.ones(3),
        "out_s.block1.1.weight": torch.ones(1, dtype=torch.int64),
    }
    sentence = refusal(save(other, tmp_path / "other.pth"))
    assert "'out.block1.0.bias' is float32 [3], expected float32 [64]" in sentence
    assert "'out_s.block1.1.weight' is int64 [1], expected float32 [1]" in sentence


def test_all_that_is_wrong_stands_in_one_sentence(state: State, tmp_path: Path) -> None:
    wrong = state | {"extra": torch.ones(1), "out.block1.0.bias": torch.ones(3)}
    wrong.pop("concat16.bias")
    sentence = refusal(save(wrong, tmp_path / "wrong.pth"))
    assert re.search(r" lacks 'concat16.bias'; holds 'extra', .*; differs in 'out.block1.0.bias' ", sentence)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(state: State, tmp_path: Path, value: float) -> None:
    wild = dict(state)
    names = ["concat16.bias", "decoder16.norm.weight", "out.block7.1.running_mean", "out_concat.bias"]
    for name in names:
        wild[name] = state[name].clone()
        wild[name][-1] = value
    sentence = refusal(save(wild, tmp_path / "wild.pth"))
    assert "holds a NaN or an infinity in 'concat16.bias'," in sentence
    assert " and 1 more; expected finite float32 weights" in sentence


def test_float64_weights_beyond_float32(state: State, tmp_path: Path) -> None:
    large = state | {"concat16.bias": state["concat16.bias"].double() * 1e300}
    assert "an infinity in 'concat16.bias';" in refusal(save(large, tmp_path / "large.pth"))
