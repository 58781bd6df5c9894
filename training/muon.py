"""Muon, an optimizer that learns these networks in about half the steps that Adam takes (docs/training.md)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

RATE = 20.0
"""What Muon's learning rate is, as a multiple of Adam's: its steps are as large as a matrix, not as a weight."""

_MOMENTUM = 0.95
_DECAY = 0.01

# Newton and Schulz's iteration as its authors tuned it: five steps bring all singular values to 0.7 to 1.2.
_STEPS = 5
_A, _B, _C = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.Adam):
    """Momentum made orthogonal for matrices and kernels, Adam for all else.

    Jordan et al., *Muon: an optimizer for hidden layers in neural networks*, 2024. torch's own takes matrices alone,
    and most of what is learned here are kernels of convolutions: (out, in, height, width), taken as matrices of
    ``out`` rows.

    Args:
        network: to be optimized. Its first and last layers, which touch pixels, are left to Adam.
        rate, betas, weight_decay: Adam's; each group remembers the rate as ``initial_lr``.
        hidden: whether the parameter of a name is Muon's, if it has two dimensions at least.
    """

    def __init__(
        self,
        network: nn.Module,
        rate: float,
        betas: tuple[float, float],
        weight_decay: float,
        hidden: Callable[[str], bool],
    ) -> None:
        learned = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        matrices = [p for name, p in learned if p.ndim >= 2 and hidden(name)]
        chosen = {id(p) for p in matrices}
        others = [p for _, p in learned if id(p) not in chosen]
        groups = [
            {"params": matrices, "lr": RATE * rate, "initial_lr": RATE * rate, "orthogonal": True},
            {"params": others, "initial_lr": rate, "orthogonal": False},
        ]
        super().__init__(groups, lr=rate, betas=betas, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; see :class:`torch.optim.Adam`."""
        for group in self.param_groups:
            if group["orthogonal"]:
                for parameter in group["params"]:
                    self._turn(parameter, group["lr"])
        return super().step(closure)

    def _turn(self, parameter: Tensor, rate: float) -> None:
        if parameter.grad is None:
            return
        state = self.state[parameter]
        if not state:
            # A "step" because Adam looks for one in whatever it loads.
            state.update(step=torch.zeros(()), momentum=torch.zeros_like(parameter))
        gradient, momentum = parameter.grad, state["momentum"]
        momentum.lerp_(gradient, 1 - _MOMENTUM)
        update = gradient.lerp(momentum, _MOMENTUM).flatten(1)
        tall = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
        parameter.mul_(1 - rate * _DECAY)
        parameter.sub_(rate * tall * orthogonalized(update).reshape(parameter.shape))
        parameter.grad = None  # nothing is left for Adam


def orthogonalized(matrix: Tensor) -> Tensor:
    """The nearest matrix whose singular values are about 1, in bfloat16 arithmetic: (R, C) -> (R, C) float32."""
    x = matrix.bfloat16()
    wide = len(x) <= x.shape[1]
    x = x if wide else x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(_STEPS):
        square = x @ x.T
        x = _A * x + (_B * square + _C * square @ square) @ x
    return (x if wide else x.T).float()
