"""Folds for cross-validation: whole scenes, never single patches of them."""

from collections.abc import Mapping, Sequence

from ecea.runtime.errors import RequestError
from ecea.training.data.scenes import CleanScene


def assign_folds(sizes: Mapping[str, int], folds: int) -> dict[str, int]:
    """Put each scene into one of ``folds`` folds of about the same size.

    The largest scene goes first, each to the fold that holds least so far, so the result depends on nothing but names
    and sizes.

    Args:
        sizes: scene -> what it weighs, such as its tiles.
        folds: 2 at least.

    Returns:
        scene -> fold, from 1.

    Raises:
        RequestError: where there are fewer scenes than folds.
    """
    if folds < 2:
        raise RequestError(f"{folds} folds are too few: expected 2 at least")
    if len(sizes) < folds:
        raise RequestError(
            f"{len(sizes)} scenes make no {folds} folds, which are made of whole scenes: give more scenes, fewer "
            "--folds, or say which patches belong together with --group prefix or in a list (.toml)"
        )
    weights = [0] * folds
    assigned: dict[str, int] = {}
    for scene in sorted(sizes, key=lambda name: (-sizes[name], name)):
        # An empty fold first, whatever the weights: a scene may weigh nothing.
        lightest = min(range(folds), key=lambda fold: (fold + 1 in assigned.values(), weights[fold], fold))
        weights[lightest] += sizes[scene]
        assigned[scene] = lightest + 1
    return assigned


def split(scenes: Sequence[CleanScene], folds: int, fold: int) -> tuple[list[CleanScene], list[CleanScene]]:
    """Those to train on, and those of ``fold``, from 1, to validate on.

    Raises:
        RequestError: as :func:`assign_folds`, or where there is no such fold.
    """
    if not 1 <= fold <= folds:
        raise RequestError(f"fold {fold} is not one of {folds}: expected --fold 1 to {folds}")
    sizes: dict[str, int] = {}
    for scene in scenes:
        sizes[scene.source.scene] = sizes.get(scene.source.scene, 0) + scene.tiles
    assigned = assign_folds(sizes, folds)
    training = [scene for scene in scenes if assigned[scene.source.scene] != fold]
    return training, [scene for scene in scenes if assigned[scene.source.scene] == fold]
