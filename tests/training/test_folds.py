"""Folds hold out whole scenes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecea.runtime.errors import RequestError
from ecea.training.folds import scene_folds, scene_of

NAMES = st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=40, unique=True)


@given(names=NAMES, data=st.data())
def test_each_scene_is_held_out_once(names: list[str], data: st.DataObject) -> None:
    folds = data.draw(st.integers(2, len(names)))
    held_out = scene_folds(names, folds)
    assert len(held_out) == folds
    assert sorted(name for fold in held_out for name in fold) == sorted(names)
    assert {len(fold) for fold in held_out} <= {len(names) // folds, -(-len(names) // folds)}


@given(names=NAMES, data=st.data())
def test_the_order_and_repetitions_do_not_matter(names: list[str], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(names))
    assert scene_folds([*shuffled, *names], 2) == scene_folds(names, 2)


def test_a_scene_belongs_to_its_index_mod_folds() -> None:
    assert scene_folds("edcba", 2) == [["a", "c", "e"], ["b", "d"]]


@pytest.mark.parametrize(
    ("names", "folds", "said"),
    [
        (["a", "b", "c"], 1, "1 folds are impossible"),
        (["a", "b"], 3, "2 scenes (a, b) cannot be split into 3 folds"),
        ([], 2, "0 scenes () cannot be split into 2 folds"),
    ],
)
def test_refusals(names: list[str], folds: int, said: str) -> None:
    with pytest.raises(RequestError, match="^" + said.replace("(", r"\(").replace(")", r"\)")):
        scene_folds(names, folds)


@pytest.mark.parametrize(
    ("stem", "scene"),
    [("1_57", "1"), ("LE07_20100116_3", "LE07_20100116"), ("peru_B4-B3", "peru_B4-B3"), ("_7", "_7"), ("a", "a")],
)
def test_patches_of_a_scene(stem: str, scene: str) -> None:
    assert scene_of(stem) == scene
