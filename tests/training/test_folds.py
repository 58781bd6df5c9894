"""Folds hold out whole scenes, and both commands the same ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from ecea.runtime.errors import RequestError
from ecea.training.evaluation.cli import app as evaluate_app
from ecea.training.folds import held_out_scenes, scene_of
from ecea.training.run import DataRequest, load_data

NAMES = st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=40, unique=True)


@given(names=NAMES, data=st.data())
def test_each_scene_is_held_out_once(names: list[str], data: st.DataObject) -> None:
    folds = data.draw(st.integers(2, len(names)))
    held_out = [held_out_scenes(names, folds, fold) for fold in range(1, folds + 1)]
    assert sorted(name for fold in held_out for name in fold) == sorted(names)
    assert {len(fold) for fold in held_out} <= {len(names) // folds, -(-len(names) // folds)}


@given(names=NAMES, data=st.data())
def test_the_order_and_repetitions_do_not_matter(names: list[str], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(names))
    assert held_out_scenes([*shuffled, *names], 2, 1) == held_out_scenes(names, 2, 1)


def test_scenes_are_dealt_out_in_turns() -> None:
    assert [held_out_scenes("edcba", 2, fold) for fold in (1, 2)] == [{"a", "c", "e"}, {"b", "d"}]
    assert not held_out_scenes("edcba", None, None)


@pytest.mark.parametrize(
    ("names", "folds", "fold", "said"),
    [
        ("abc", 1, 1, "--folds 1 is impossible"),
        ("ab", 3, 1, r"2 scenes \(a, b\) cannot be split into 3 folds"),
        ("a", 2, 1, r"1 scene \(a\) cannot be split into 2 folds"),
        ("", 2, 1, r"0 scenes \(\) cannot be split into 2 folds"),
        ("abc", 2, 0, "fold 0 is not one of 2: expected --fold 1 to 2"),
        ("abc", 2, 3, "fold 3 is not one of 2: expected --fold 1 to 2"),
        ("abc", 2, None, "--folds and --fold go together"),
        ("abc", None, 1, "--folds and --fold go together"),
    ],
)
def test_refusals(names: str, folds: int | None, fold: int | None, said: str) -> None:
    with pytest.raises(RequestError, match="^" + said):
        held_out_scenes(names, folds, fold)


@pytest.mark.parametrize(
    ("name", "number", "prefix"),
    [
        ("1_57.png", "1", "1"),
        ("LE07_20100116_3.tif", "LE07_20100116", "LE07"),
        ("peru_B4-B3.tif", "peru_B4-B3", "peru"),
        ("_7.tif", "_7", "_7"),
        ("a.b.tif", "a.b", "a.b"),
    ],
)
def test_the_scene_of_a_file(name: str, number: str, prefix: str, tmp_path: Path) -> None:
    assert scene_of(tmp_path / name) == number
    assert scene_of(tmp_path / name, "prefix") == prefix
    assert scene_of(tmp_path / name, "folder") == str(tmp_path.resolve())


@pytest.fixture
def folders(write: Callable[..., Path]) -> list[str]:
    """Two folders with patches of several scenes, in several formats, and a mask beside one of them."""
    # Later scenes have more patches, so a rule that weighed them would deal them out in another order.
    values = np.random.default_rng(0).integers(1, 200, (3, 64, 64)).astype(np.uint8)
    names = ["x/a_1", "x/b-1_1", "x/b-1_2", "x/c_1_1", "x/c_1_2", "x/c_2_1", "x/c_2_10", "x/d", "y/b-1_3", "y/e_1"]
    found = [write(f"{name}.tif", values) for name in names]
    found.append(write("y/f_1.jpg", values, driver="JPEG"))
    write("x/a_1_mask.tif", values[:1] // 100)
    return [str(found[0].parent), str(found[-1].parent)]


@pytest.mark.parametrize(("group", "folds"), [("number", 2), ("number", 3), ("prefix", 3), ("folder", 2)])
def test_a_model_is_evaluated_on_what_it_was_not_trained_on(group: str, folds: int, folders: list[str]) -> None:
    """Both commands go through the same folders, each in its own way."""
    seen: list[str] = []
    for fold in range(1, folds + 1):
        data = load_data(DataRequest(folders, group=group, folds=folds, fold=fold), 64, 0)
        trained_on, held_out = (sorted(s.source.path for s in part) for part in (data.training, data.validation))
        evaluated_on = evaluate(folders, "--group", group, "--folds", folds, "--fold", fold)
        assert evaluated_on == held_out
        assert sorted([*trained_on, *evaluated_on]) == evaluate(folders)
        seen += evaluated_on
    assert sorted(seen) == evaluate(folders)


def evaluate(folders: list[str], *options: object) -> list[str]:
    """The files that ``ecea-evaluate`` measures on."""
    scenes = [word for folder in folders for word in ("--scenes", folder)]
    words: list[Any] = [*scenes, "--stripes", "3", "--baseline", "nearest", "--json", *options]
    done = CliRunner().invoke(evaluate_app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    return sorted(case["scene"] for case in json.loads(done.stdout)["cases"])
