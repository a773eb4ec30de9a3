"""What every objective is, and the pieces several of them share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from equipoise.models.objectives.latents import Latents


class Objective(nn.Module):
    """One auxiliary loss: a ``Latents`` in, a scalar out, or None where no element qualifies.

    Where several workers share a batch, a mean over it is made of the means of each worker's clips, by how many
    ``elements`` each has. What is no mean adds up over the workers by itself (``Latents.total``), and says so.
    """

    def elements(self, latents: Latents) -> int | None:
        """How many elements the mean runs over: the pairs P. None: the value is of the whole batch already."""
        return len(latents.pairs)

    def forward(self, latents: Latents) -> Tensor | None:
        """Value of the term for one mask."""
        raise NotImplementedError(f"{type(self).__name__} has no forward: every objective defines its own")

    def __call__(self, latents: Latents) -> Tensor | None:
        """Value of the term for one mask; None is absent from a mean, not zero."""
        result: Tensor | None = super().__call__(latents)
        return result


class HeadObjective(Objective):
    """An objective with a network of its own, ``head``, that is dropped after training.

    ``load_state_dict`` takes the head's own keys (``0.weight``) as well as the objective's (``head.0.weight``).
    """

    def __init__(self, head: nn.Sequential) -> None:
        super().__init__()
        self.head = head
        self.register_load_state_dict_pre_hook(_accept_bare_keys)  # type: ignore[no-untyped-call]


def _accept_bare_keys(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for key in list(state):
        if key.startswith(prefix) and key[len(prefix) :].split(".")[0].isdigit():
            state[f"{prefix}head.{key[len(prefix) :]}"] = state.pop(key)


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers of these sizes with GELU (erf) between them."""
    layers: list[nn.Module] = [nn.Linear(sizes[0], sizes[1])]
    for a, b in pairwise(sizes[1:]):
        layers += [nn.GELU(), nn.Linear(a, b)]
    return nn.Sequential(*layers)


def hard_weights(error: Tensor, tau: float) -> Tensor:
    """``n * softmax(error / tau)`` over the last axis, which has n entries; no gradient. Their mean is 1."""
    return error.shape[-1] * torch.softmax(error.detach() / tau, dim=-1)


def hard_weights_of_batch(error: Tensor, tau: float, latents: Latents) -> Tensor:
    """``hard_weights`` of errors ``[n]`` among those of the whole batch; every worker has to call it, also with n 0."""
    if latents.workers is None:
        return hard_weights(error, tau)
    x = error.detach() / tau
    top = latents.largest(torch.cat([x, x.new_full((1,), -torch.inf)]).max())
    share = (x - top).exp()
    return latents.count(x) * share / latents.total(share.sum())
