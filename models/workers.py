"""What several workers of one training add up: sums over the whole batch, of which each of them has some clips."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class Workers(Protocol):
    """The workers that share a batch, as one of them sees them; all of them make the same calls in the same order."""

    world: int

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum of a tensor over all workers, in place."""

    def largest(self, tensor: Tensor) -> Tensor:
        """Largest of each element over all workers, in place."""


def total(x: Tensor, workers: Workers | None) -> Tensor:
    """Sum of ``x`` over the workers, on each of them, in its own dtype; ``x`` itself where one works alone.

    The gradient is that of data parallel training, which averages gradients over the workers: where all of them compute
    the same loss from the sum, the average is the gradient of that loss. A sum that enters another one has to be
    detached: no gradient of it comes from the other workers' part.
    """
    return x if workers is None else _Total.apply(x, workers)


class _Total(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, workers: Workers) -> Tensor:
        ctx.world = workers.world
        return workers.sum(x.detach().clone())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.world, None
