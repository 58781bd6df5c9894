"""The files of a training run: checkpoints as published, and one file to go on from."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ecea.runtime.errors import RequestError
from ecea.runtime.paths import is_special
from ecea.runtime.writer import written_whole

RESUME_FILE = "training.pth"
_SCHEMA = 2

_LONG = 80  # characters of a list that are still read

State = Mapping[str, Tensor]


class Checkpoints:
    """The folder that a run writes to.

    ``G_10.pth`` and ``D_10.pth`` are bare state dicts, named as the published code names them; ``training.pth`` is
    what a run is resumed from, always the latest. Each appears whole or not at all.

    Args:
        folder: looked at, and made only by :meth:`make_folder`.
        resume: whether the run in it is to be gone on with.
        letter: what the generator's checkpoints begin with.

    Raises:
        RequestError: where it cannot be written, holds a run that is not to be resumed, or none that could be.
    """

    def __init__(self, folder: Path, resume: bool, letter: str = "G") -> None:
        self.folder = folder
        self._letter = letter
        self.last: Path | None = None
        if is_special(folder) or folder.is_file():
            raise RequestError(f"{folder}: is no folder: name one for the checkpoints with -o")
        if not folder.is_dir() and not folder.absolute().parent.is_dir():
            raise RequestError(f"{folder}: the folder {folder.parent} does not exist: make it, or name another output")
        present = (folder / RESUME_FILE).is_file()
        left = sorted(folder.glob("[GU]_*.pth"))
        # So leaves a run that was stopped at its first checkpoint, and so do checkpoints of the published code.
        if left and not present:
            raise RequestError(
                f"{folder}: holds {left[0].name} and no {RESUME_FILE}, so it can neither be resumed nor begun anew: "
                f"name another output, and begin with those weights if they are wanted (--start-from {left[0]})"
            )
        if resume and not present:
            raise RequestError(
                f"{folder / RESUME_FILE}: does not exist, so there is nothing to resume: leave --resume out"
            )
        if not resume and present:
            raise RequestError(
                f"{folder}: holds a training run already: go on with it (--resume), or name another output"
            )
        if not os.access(folder if folder.is_dir() else folder.absolute().parent, os.W_OK):
            raise RequestError(f"{folder}: may not be written: name another output")

    def make_folder(self) -> None:
        """Make the folder, if it is not there.

        Raises:
            RequestError: where the file system refuses.
        """
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise RequestError(f"{self.folder}: cannot be made ({error.strerror}): name another output") from error

    def generator(self, epoch: int) -> Path:
        """Where the generator of an epoch is, or will be."""
        return self.folder / f"{self._letter}_{epoch}.pth"

    def save(self, epoch: int, generator: State, discriminator: State | None, resume: Mapping[str, Any]) -> Path:
        """Write the checkpoint of an epoch; the path of the generator's.

        Raises:
            EceaError: where the file system refuses; files that were there are as they were.
        """
        path = self.generator(epoch)
        self._write(path, _on_cpu(generator))
        if discriminator is not None:
            self._write(self.folder / f"D_{epoch}.pth", _on_cpu(discriminator))
        self._write(self.folder / RESUME_FILE, {"schema": _SCHEMA, "epoch": epoch, **resume})
        self.last = path
        return path

    def load(self, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """Read what to resume from: what was given to ``save``, with ``epoch``.

        Args:
            fixed: what has to be as it was in the run's first part, by name.

        Raises:
            RequestError: where the file is damaged or of another kind, or something is not as it was.
        """
        path = self.folder / RESUME_FILE
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        # Nothing narrower: on damaged or foreign files the unpickler also raises EOFError, KeyError, IndexError.
        except Exception as error:
            raise RequestError(
                f"{path}: cannot be read as a run to resume: expected a whole file that ecea-train wrote; begin anew "
                "in another folder"
            ) from error
        if not isinstance(state, dict) or state.get("schema") != _SCHEMA:
            raise RequestError(f"{path}: is not of this version of ecea-train: begin anew in another folder")
        before = state["fixed"]
        # What only one of both knows, versions differ in: a run is resumed by a later one.
        for name in [name for name in fixed if name in before]:
            if before[name] != fixed[name]:
                what, then, now = _difference(name.replace("_", " "), before[name], fixed[name])
                raise RequestError(
                    f"{path}: was trained with {what} {then}, now it is {now}: resume with what it was begun with, or "
                    "begin anew in another folder"
                )
        self.last = self.generator(state["epoch"])
        return state

    def _write(self, path: Path, content: object) -> None:
        with written_whole(path) as temporary:
            try:
                torch.save(content, temporary)
            except RuntimeError as error:  # where the disk is full, in words about its own parts
                raise OSError("PyTorch could not finish it") from error


def _difference(name: str, before: Any, now: Any) -> tuple[str, str, str]:
    """What differs, what it was and what it is; of lists too long for a sentence how many, or the first unlike pair."""
    then, later = _in_words(before), _in_words(now)
    if not isinstance(before, list) or not isinstance(now, list) or len(then + later) <= _LONG:
        return name, then, later
    if len(before) != len(now):
        return f"number of {name}", str(len(before)), str(len(now))
    index = next(index for index, pair in enumerate(zip(before, now, strict=True)) if pair[0] != pair[1])
    return f"{name} ({index + 1} of {len(now)})", _in_words(before[index], " "), _in_words(now[index], " ")


def _in_words(value: Any, between: str = ", ") -> str:
    if not isinstance(value, list):
        return str(value)
    return between.join(_in_words(part, " ") for part in value) or "none"


def _on_cpu(state: State) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
