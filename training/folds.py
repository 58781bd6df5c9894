"""Which scenes are held out of training, fold by fold: whole scenes, never patches of one."""

import re
from collections.abc import Iterable

from ecea.runtime.errors import RequestError

_PATCH = re.compile(r"(.+)_\d+")


def scene_of(stem: str) -> str:
    """The scene that a file belongs to, from its name without suffix: ``1_57`` and ``1_58`` are patches of ``1``.

    A name that ends in an underscore and a number is taken for a patch of the scene named before it. This may put
    scenes together that are apart, but never a patch on both sides of a split.
    """
    match = _PATCH.fullmatch(stem)
    return match[1] if match else stem


def scene_folds(names: Iterable[str], folds: int) -> list[list[str]]:
    """Split scenes into held-out lists: sorted by name, a scene belongs to fold ``index mod folds``.

    Args:
        names: of scenes, in any order; repeated names count once.
        folds: how many lists, 2 or more.

    Returns:
        One sorted list of names for each fold. Every scene is in exactly one; their lengths differ by one at most.

    Raises:
        RequestError: where there are fewer scenes than folds, or fewer folds than 2.
    """
    scenes = sorted(set(names))
    if folds < 2:
        raise RequestError(f"{folds} folds are impossible: expected 2 or more")
    if len(scenes) < folds:
        listed = ", ".join(scenes[:3]) + (", ..." if len(scenes) > 3 else "")
        raise RequestError(
            f"{len(scenes)} scenes ({listed}) cannot be split into {folds} folds: expected at least one for each; "
            "files named SCENE_NUMBER are patches of one scene"
        )
    return [scenes[fold::folds] for fold in range(folds)]
