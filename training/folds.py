"""Which scenes are held out of training, fold by fold: whole scenes, never patches of one.

``ecea-train`` and ``ecea-evaluate`` both ask here, so that no model is measured on what it was trained on.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from ecea.runtime.errors import RequestError
from ecea.runtime.words import counted

GROUPS = ("number", "prefix", "folder")

_NAMES = {"number": re.compile(r"(.+)_\d+\Z"), "prefix": re.compile(r"(.[^_-]*)")}


def scene_of(path: str | os.PathLike[str], group: str = "number") -> str:
    """The scene that a file shows a part of.

    Args:
        path: of the file; nothing is opened.
        group: ``number``: a file named ``SCENE_NUMBER`` is a patch of ``SCENE``, any other a scene of its own.
            ``prefix``: files whose names are alike up to the first ``_`` or ``-`` show one scene. Both look at the name
            alone, so that files of like names in two folders are put together: scenes that are apart may be, but
            patches of one are never on both sides of a split. ``folder``: all files in a folder show one scene.

    Raises:
        RequestError: where the group is unknown.
    """
    if group not in GROUPS:
        raise RequestError(f"group '{group}' is unknown: expected one of {', '.join(GROUPS)}")
    if group == "folder":
        return str(Path(path).resolve().parent)
    stem = Path(path).stem
    match = _NAMES[group].match(stem)
    return match[1] if match else stem


def held_out_scenes(names: Iterable[str], folds: int | None, fold: int | None) -> frozenset[str]:
    """The scenes of a fold: sorted by name, the first scene belongs to fold 1, the next to fold 2, and so on, in turns.

    Every scene is in exactly one fold, and the folds' sizes differ by one scene at most.

    Args:
        names: of all scenes, in any order; repeated names count once.
        folds: how many folds, 2 or more.
        fold: which of them, from 1. None, where ``folds`` is None too: nothing is held out.

    Raises:
        RequestError: where there are fewer scenes than folds, or there is no such fold.
    """
    if folds is None and fold is None:
        return frozenset()
    if folds is None or fold is None:
        raise RequestError("--folds and --fold go together: give both, such as --folds 5 --fold 1, or none")
    scenes = sorted(set(names))
    if folds < 2:
        raise RequestError(f"--folds {folds} is impossible: expected 2 or more")
    if not 1 <= fold <= folds:
        raise RequestError(f"fold {fold} is not one of {folds}: expected --fold 1 to {folds}")
    if len(scenes) < folds:
        listed = ", ".join(scenes[:3]) + (", ..." if len(scenes) > 3 else "")
        raise RequestError(
            f"{counted(len(scenes), 'scene')} ({listed}) cannot be split into {folds} folds: expected at least one "
            "for each; --group says which files are patches of one scene"
        )
    return frozenset(scenes[fold - 1 :: folds])
