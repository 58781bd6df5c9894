"""One step of training: the generator against the discriminator."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ecea.model import UNet
from ecea.model.refinement import smooth_fill
from ecea.runtime.errors import EceaError
from ecea.training import losses
from ecea.training.data.tiles import Batch
from ecea.training.discriminator import Discriminator
from ecea.training.initialization import initialize
from ecea.training.muon import Muon
from ecea.training.networks import Network, build, is_hidden
from ecea.training.options import TrainingOptions
from ecea.training.vgg import VggFeatures


class Diverged(EceaError):
    """A loss or a gradient is no finite number."""


class Pair:
    """A generator, the discriminator if there is one, and their optimizers, set up on a device.

    Attributes:
        generator: or a U-Net in its place, as it learns; ``discriminator`` likewise, None where the adversarial term
            has no weight.

    Args:
        options: of the run.
        fabric: launched.
        vgg: for the perceptual and the style term; None leaves them out.
        weights: that the generator begins, or goes on, with; None: drawn at random.
        teacher: draws what is to be learned in gaps; None: the truth is.
        coarse: the generator refines what it draws; None, where ``options.config`` has none.
    """

    def __init__(
        self,
        options: TrainingOptions,
        fabric: Fabric,
        vgg: VggFeatures | None,
        weights: Mapping[str, Tensor] | None = None,
        teacher: UNet | None = None,
        coarse: UNet | None = None,
    ) -> None:
        self._options = options
        self._fabric = fabric
        generator: nn.Module = build(options, weights, coarse)
        # Channels last are a tenth faster on a processor, measured.
        self.generator = cast(Network, generator.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
        self.discriminator = _discriminator(options)
        self.average: AveragedModel | None = None
        if options.ema:
            averaging = get_ema_multi_avg_fn(options.ema)
            self.average = AveragedModel(self.generator, multi_avg_fn=averaging, use_buffers=True).to(fabric.device)
        self._generator, self._generator_optimizer = fabric.setup(
            self.generator, _generator_optimizer(self.generator, options)
        )
        if self.discriminator is not None:
            rate = options.lr * options.discriminator_lr
            adam = _adam(self.discriminator, options, rate)
            self._discriminator, self._discriminator_adam = fabric.setup(self.discriminator, adam)
        self._vgg = vgg.to(fabric.device) if vgg is not None else None
        self._teacher = teacher.to(fabric.device) if teacher is not None else None

    @property
    def best(self) -> Network:
        """The generator that is saved: the running mean where there is one."""
        return self.generator if self.average is None else cast(Network, self.average.module)

    def step(self, batch: Batch, rate: float) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Learn from a batch.

        Args:
            batch: on the device.
            rate: what the learning rates are multiplied by.

        Returns:
            The losses by name, and what the generator made, (B, 3, S, S) and (B, 1, S, S); all without gradients.

        Raises:
            Diverged: where a loss or a gradient is not finite; nothing was learned from it then.
        """
        smooth = smooth_fill(batch["image"], batch["mask"]) if self._options.weights.relative else None
        made, made_edge = self._generator(batch["image"], batch["edge"], batch["mask"], smooth)
        terms = self._terms(batch, made, made_edge, smooth)
        loss = losses.total(terms, self._options.weights)
        self._check(loss, "generator", terms, batch)
        self._learn(self._generator, self._generator_optimizer, loss, rate)
        if self.average is not None:
            self.average.update_parameters(self.generator)
        reported = {"generator": loss, **terms}
        if self.discriminator is not None:
            reported["discriminator"] = self._teach_discriminator(batch, made.detach(), rate)
        return {name: value.detach() for name, value in reported.items()}, made.detach(), made_edge.detach()

    def not_finite(self) -> str | None:
        """The first tensor of what would be saved that holds a NaN or an infinity; None if none does."""
        for network in (self.generator, self.best, self.discriminator):
            for name, tensor in (network.state_dict() if network is not None else {}).items():
                if not bool(torch.isfinite(tensor).all()):
                    return name
        return None

    def state(self) -> dict[str, Any]:
        """Everything that a continuation needs, as tensors and plain values."""
        state = {
            "generator": self.generator.state_dict(),
            "generator_optimizer": self._generator_optimizer.state_dict(),
        }
        if self.discriminator is not None:
            state["discriminator"] = self.discriminator.state_dict()
            state["discriminator_adam"] = self._discriminator_adam.state_dict()
        if self.average is not None:
            state["average"] = self.average.state_dict()
        state["precision"] = self._fabric.strategy.precision.state_dict()  # with FP16, how far losses are scaled up
        return state

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self.generator.load_state_dict(state["generator"])
        self._generator_optimizer.load_state_dict(state["generator_optimizer"])
        if self.discriminator is not None:
            self.discriminator.load_state_dict(state["discriminator"])
            self._discriminator_adam.load_state_dict(state["discriminator_adam"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if precision := state.get("precision"):
            self._fabric.strategy.precision.load_state_dict(precision)

    def _terms(self, batch: Batch, made: Tensor, made_edge: Tensor, smooth: Tensor | None) -> dict[str, Tensor]:
        """The terms of the generator's loss that there are, unweighted."""
        target = self._wanted(batch)
        terms: dict[str, Tensor] = {}
        if self.discriminator is not None:
            with _frozen(self.discriminator), self._fabric.autocast():
                judgement = self.discriminator(made)
            terms["adversarial"] = losses.deceived(judgement.float())
        if self._vgg is not None:
            with self._fabric.autocast():
                made_features, features = self._vgg(made), self._vgg(target)
            terms["perceptual"] = losses.perceptual(made_features, features)
            terms["style"] = losses.style(made_features, features)
        terms["l1"] = losses.weighted_l1(made, target, batch["mask"], self._options.gap_weight)
        if smooth is not None:
            terms["relative"] = losses.relative_error(made, target, smooth, batch["target"], batch["mask"])
        if self._options.edge_weight:
            terms["edge"] = F.l1_loss(made_edge, batch["target_edge"])
        return terms

    @torch.no_grad()
    def _wanted(self, batch: Batch) -> Tensor:
        """The picture to be made, (B, 3, S, S): the truth, with what the teacher draws in its gaps if there is one."""
        if self._teacher is None:
            return batch["target"]
        with self._fabric.autocast():
            taught, _ = self._teacher(batch["image"], batch["edge"], batch["mask"])
        return torch.where(batch["mask"] > 0, taught.float(), batch["target"])

    def _teach_discriminator(self, batch: Batch, made: Tensor, rate: float) -> Tensor:
        # What is made and what is real are judged at once. Nothing in the discriminator mixes the tiles of a batch, so
        # this is what two calls give, but for one of the steps by which the spectral norm is approached.
        judgements = self._discriminator(torch.cat([made, batch["target"]]))
        loss = losses.discriminator_loss(*judgements.float().chunk(2))
        self._check(loss, "discriminator", {}, batch)
        self._learn(self._discriminator, self._discriminator_adam, loss, rate)
        return loss

    def _learn(self, network: Any, optimizer: Any, loss: Tensor, rate: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate
        optimizer.zero_grad()
        self._fabric.backward(loss)
        if self._options.clip_gradient:
            norm = self._fabric.clip_gradients(
                network, optimizer, max_norm=self._options.clip_gradient, error_if_nonfinite=False
            )
            # With FP16 they are infinite now and then: the scaler leaves such a step out.
            if self._options.precision != "fp16" and norm is not None and not bool(torch.isfinite(norm)):
                raise Diverged(f"a gradient is not finite, of a loss of {float(loss.detach()):g}")
        optimizer.step()

    def _check(self, loss: Tensor, whose: str, terms: Mapping[str, Tensor], batch: Batch) -> None:
        finite = torch.isfinite(loss.detach()).float().reshape(1)
        if self._fabric.world_size > 1:  # all stop, or none waits for one that has stopped
            finite = cast(Tensor, self._fabric.all_gather(finite)).flatten()
        if bool(finite.all()):
            return
        values = ", ".join(f"{name} {float(value.detach()):g}" for name, value in terms.items())
        found = (
            f"the {whose}'s loss is {float(loss.detach()):g}{f' ({values})' if values else ''} on the tiles "
            f"{'; '.join(dict.fromkeys(batch['name']))}"
        )
        # It is the process with the wrong loss that knows of which tiles it is.
        raise Diverged(self._fabric.broadcast(found, src=int(finite.argmin())))


def _discriminator(options: TrainingOptions) -> Discriminator | None:
    if not options.weights.adversarial:
        return None
    discriminator = Discriminator(options.config.out_c)
    initialize(discriminator)
    return discriminator


def _generator_optimizer(generator: Network, options: TrainingOptions) -> torch.optim.Optimizer:
    if options.optimizer == "adam":
        return _adam(generator, options, options.lr)
    return Muon(generator, options.lr, options.betas, options.weight_decay, is_hidden)


def _adam(network: nn.Module, options: TrainingOptions, rate: float) -> torch.optim.Adam:
    group = {"params": list(network.parameters()), "initial_lr": rate}
    return torch.optim.Adam([group], lr=rate, betas=options.betas, weight_decay=options.weight_decay)


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Gradients go through the network, not into it."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)
