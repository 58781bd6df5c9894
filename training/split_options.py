"""The options by which scenes are split, which what trains and what evaluates have to agree on."""

from typing import Annotated

import typer

Group = Annotated[
    str,
    typer.Option(
        metavar="number|prefix|folder",
        help="Which files show one scene: SCENE_NUMBER, those alike up to the first _ or -, a folder's.",
    ),
]
Folds = Annotated[int | None, typer.Option(help="Scenes, sorted by name, are dealt out to so many parts.")]
