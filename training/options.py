"""Everything that a training run is told, and what of it has to stay the same when a run is resumed."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from ecea.model import GeneratorConfig, Regularization
from ecea.model.config import MIN_GRID
from ecea.model.regularization import PUBLISHED
from ecea.runtime.errors import RequestError
from ecea.training.losses import LossWeights

SCHEDULES = ("constant", "cosine")
OPTIMIZERS = ("adam", "muon")
NETWORKS = ("ecea", "unet")
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
"""Ours -> Lightning Fabric's."""

_TOO_FAST = 1e30  # what is made of a rate still has to be a float32

# Of the configuration, what a U-Net depends on.
_OF_A_UNET = ("img_size", "out_c")

# What may differ between a run and its continuation: none of it changes a weight.
_FREE = frozenset(("epochs", "save_every", "validation_tiles"))


@dataclass(frozen=True)
class TrainingOptions:
    """How a generator is trained; the defaults are the published ones, and what is not published is off.

    Attributes:
        config: the generator's shape; of a U-Net, the tile and the bands alone.
        network: ``ecea``, the generator, or ``unet``, for one to refine or to be taught by (:mod:`ecea.model.unet`).
        regularization: what is dropped at random in training.
        weights: of the five terms of the loss. Without a weight for the adversarial one there is no discriminator.
        gap_weight: how many times pixels of gaps count in the L1 term; 1 as published.
        epochs: passes over the data.
        batch_size: tiles in a batch, on each device.
        lr: the generator's learning rate.
        discriminator_lr: the discriminator's, as a share of it.
        optimizer: ``adam`` as published, or ``muon`` for what lies between the generator's first and last layers
            (:mod:`ecea.training.muon`); the discriminator's is Adam.
        betas, weight_decay: Adam's.
        clip_gradient: the norm above which a step's gradient is scaled down to it; 0 for none, as published.
        schedule: ``constant`` as published, or ``cosine``: falling to 0 over all epochs.
        ema: decay, a step, of a running mean of the weights, which is then what is saved; 0 for none, as published.
        precision: of the arithmetic: ``fp32``, ``bf16`` or ``fp16``, the latter two mixed with it.
        seed: of everything that is drawn.
        save_every: epochs between checkpoints.
        validation_tiles: how many tiles of held-out scenes are looked at, at each checkpoint.
    """

    config: GeneratorConfig = field(default_factory=GeneratorConfig)
    network: str = "ecea"
    regularization: Regularization = PUBLISHED
    weights: LossWeights = field(default_factory=LossWeights)
    gap_weight: float = 1.0
    epochs: int = 500
    batch_size: int = 10
    lr: float = 5e-4
    discriminator_lr: float = 0.01
    optimizer: str = "adam"
    betas: tuple[float, float] = (0.95, 0.9995)
    weight_decay: float = 1e-5
    clip_gradient: float = 0.0
    schedule: str = "constant"
    ema: float = 0.0
    precision: str = "fp32"
    seed: int = 0
    save_every: int = 10
    validation_tiles: int = 64

    def __post_init__(self) -> None:
        _check_config(self.config)
        _check_choice("network", self.network, NETWORKS)
        _check_choice("schedule", self.schedule, SCHEDULES)
        _check_choice("optimizer", self.optimizer, OPTIMIZERS)
        _check_choice("precision", self.precision, tuple(PRECISIONS))
        for name in ("epochs", "batch_size", "discriminator_lr", "gap_weight", "save_every", "validation_tiles"):
            _check_range(name, getattr(self, name), low=0, above=True)
        _check_range("lr", self.lr, low=0, above=True, high=_TOO_FAST)
        for name in ("weight_decay", "clip_gradient", "seed"):
            _check_range(name, getattr(self, name), low=0)
        shares = dataclasses.asdict(self.regularization) | {"ema": self.ema}
        for name, value in shares.items():
            _check_range(name, value, low=0, high=1)
        for name, value in dataclasses.asdict(self.weights).items():
            _check_range(f"{name} weight", value, low=0)

    @property
    def edge_weight(self) -> float:
        """Of the error in the edge map; none where a U-Net hands that back as it is."""
        return 0.0 if self.network == "unet" else self.weights.edge

    def fixed(self) -> dict[str, Any]:
        """What a continuation has to be told again, by name; a cosine ends with the last epoch, so it fixes that."""
        # The network first: where that differs, so does much that follows from it.
        flat: dict[str, Any] = {"network": self.network}
        told = dataclasses.asdict(self)
        if self.network == "unet":
            del told["regularization"]
            told["config"] = {name: told["config"][name] for name in _OF_A_UNET}
        for name, value in told.items():
            flat |= value if isinstance(value, dict) and name != "weights" else {name: value}
        flat |= {f"{name} weight": value for name, value in flat.pop("weights").items()}
        if self.network == "unet":
            del flat["edge weight"]
        free = _FREE - ({"epochs"} if self.schedule == "cosine" else set())
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in flat.items() if name not in free
        }


def _check_config(config: GeneratorConfig) -> None:
    grid = config.img_size / 4
    if grid % 8 or grid < MIN_GRID:
        raise RequestError(
            f"an image size of {config.img_size} px has no four levels: expected a multiple of 32 px, "
            f"{4 * MIN_GRID} at least"
        )
    if config.embed_dim < 1 or len(config.depth) != 4 or min(config.depth) < 1:
        raise RequestError(
            f"a generator of {config.embed_dim} channels and depths {list(config.depth)} cannot be built: expected "
            "--embed-dim 1 at least and four --depth of 1 at least, such as 1,2,3,4"
        )
    if not config.heads_fit:
        raise RequestError(
            f"{list(config.num_heads)} heads do not divide {list(config.widths)} channels: expected --num-heads with a "
            "divisor for each level, such as 1,2,4,8"
        )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise RequestError(f"{name} '{value}' is unknown: expected one of {', '.join(choices)}")


def _check_range(name: str, value: float, *, low: float, high: float = float("inf"), above: bool = False) -> None:
    if not (low < value if above else low <= value) or not value < high:
        limits = f"{'above' if above else 'at least'} {low:g}" + (f" and below {high:g}" if high < float("inf") else "")
        raise RequestError(f"{name.replace('_', ' ')} {value:g} is out of range: expected {limits}")
