"""Banks of frozen-encoder probes: one set of features, a grid of hyper-parameters, all trained side by side.

Shapes: G probes of the bank, n items of a batch, K tokens, D channels, A heads, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from equipoise.models.errors import ModelError


class LinearBank(nn.Module):
    """G linear classifiers on one vector per item.

    Args:
        probes: G.
        channels: D.
        classes: C.
        generator: draws the initial weights.
    """

    def __init__(self, probes: int, channels: int, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        # One draw for all G: probes of a bank differ in hyper-parameters only.
        weight = torch.randn(channels, classes, generator=generator) * 0.01
        self.weight = nn.Parameter(weight.repeat(probes, 1, 1))
        self.bias = nn.Parameter(torch.zeros(probes, 1, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[G, n, C]`` of items ``[n, D]``."""
        return torch.baddbmm(self.bias, x.expand(len(self.weight), -1, -1), self.weight)


class AttentiveBank(nn.Module):
    """G attentive classifiers: a class token attends once, with several heads, over all tokens of an item.

    A class-token query does not depend on the item, so a head's score of token x is one dot product with
    ``u = W_k^T q`` and its output is ``W_v`` applied to the attention-weighted mean of the tokens: keys and values are
    never formed, which is equal in exact arithmetic and needs about D / A times fewer operations. (A key bias adds the
    same to every token's score and drops out of the softmax.)

    The query has a projection of its own although one vector would express the same: without it attention learns
    more slowly under Adam, which cost 4.9 points of accuracy where a probe had 200 steps (bench/data.md).

    Args:
        probes: G.
        channels: D.
        classes: C.
        heads: A; divides D.
        generator: draws the initial weights.
    """

    def __init__(self, probes: int, channels: int, classes: int, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        if channels % heads:
            raise ModelError(f"attentive probe: {heads} heads do not divide {channels} channels")
        self.heads = heads

        def draw(*shape: int, std: float) -> nn.Parameter:
            value = torch.randn(*shape, generator=generator) * std
            return nn.Parameter(value.repeat(probes, *(1,) * len(shape)))

        self.query = draw(channels, std=channels**-0.5)
        self.query_proj = draw(channels, channels, std=channels**-0.5)
        self.query_bias = nn.Parameter(torch.zeros(probes, 1, channels))
        self.key = draw(channels, channels, std=channels**-0.5)
        self.value = draw(channels, channels, std=channels**-0.5)
        self.proj = draw(channels, channels, std=channels**-0.5)
        self.proj_bias = nn.Parameter(torch.zeros(probes, 1, channels))
        self.norm_weight = nn.Parameter(torch.ones(probes, 1, channels))
        self.norm_bias = nn.Parameter(torch.zeros(probes, 1, channels))
        self.classify = draw(channels, classes, std=0.01)
        self.classify_bias = nn.Parameter(torch.zeros(probes, 1, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[G, n, C]`` of items ``[n, K, D]``."""
        n, K, D = x.shape
        G, A = len(self.query), self.heads
        q = torch.baddbmm(self.query_bias, self.query.unsqueeze(1), self.query_proj).view(G, A, D // A)
        u = torch.einsum("gdae,gae->gad", self.key.view(G, D, A, D // A), q)
        scores = (u.reshape(G * A, D) / math.sqrt(D / A)) @ x.flatten(0, 1).T  # one product for all items: [G A, n K]
        weights = scores.view(G * A, n, K).softmax(dim=2).transpose(0, 1)
        pooled = torch.bmm(weights, x).view(n, G, A, D)
        value = torch.einsum("ngad,gdae->gnae", pooled, self.value.view(G, D, A, D // A)).flatten(2)
        y = self.query.unsqueeze(1) + torch.baddbmm(self.proj_bias, value, self.proj)
        y = nn.functional.layer_norm(y, (D,)) * self.norm_weight + self.norm_bias
        return torch.baddbmm(self.classify_bias, y, self.classify)


class _Linear(nn.Module):
    """G linear maps ``[G, M, D] -> [G, M, E]``, all with the same initial weights."""

    def __init__(self, probes: int, channels: int, out: int, generator: torch.Generator, std: float = 0.02) -> None:
        super().__init__()
        self.weight = nn.Parameter((torch.randn(channels, out, generator=generator) * std).repeat(probes, 1, 1))
        self.bias = nn.Parameter(torch.zeros(probes, 1, out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class _Norm(nn.Module):
    def __init__(self, probes: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(probes, 1, channels))
        self.bias = nn.Parameter(torch.zeros(probes, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, x.shape[-1:]) * self.weight + self.bias


class _Attention(nn.Module):
    """G times: norm, attention of queries over tokens, norm, MLP of four times the width.

    Args:
        own: the queries are the tokens, and what attention gives is mapped once more; else they are given, as V-JEPA's
            pooling query is.
        depth: by whose root the maps are scaled that lead back, counted from 1.
    """

    def __init__(
        self, probes: int, channels: int, heads: int, generator: torch.Generator, *, own: bool, depth: int
    ) -> None:
        super().__init__()
        self.heads, back = heads, 0.02 / math.sqrt(2 * depth)
        self.norm1, self.norm2 = _Norm(probes, channels), _Norm(probes, channels)
        self.q, self.k, self.v = (_Linear(probes, channels, channels, generator) for _ in range(3))
        self.proj = _Linear(probes, channels, channels, generator, back) if own else None
        self.fc1 = _Linear(probes, channels, 4 * channels, generator)
        self.fc2 = _Linear(probes, 4 * channels, channels, generator, back)

    def forward(self, x: Tensor, query: Tensor | None = None) -> Tensor:
        """Tokens ``[G, n, K, D]``, or what the query ``[G, n, 1, D]`` becomes by looking at them."""
        G, n, _, D = x.shape
        seen = self.norm1(x.flatten(1, 2))
        asking = seen if query is None else query.flatten(1, 2)

        def by_head(linear: _Linear, of: Tensor) -> Tensor:
            found: Tensor = linear(of)
            return found.view(G * n, -1, self.heads, D // self.heads).transpose(1, 2)

        mixed = nn.functional.scaled_dot_product_attention(
            by_head(self.q, asking), by_head(self.k, seen), by_head(self.v, seen)
        )
        mixed = mixed.transpose(1, 2).reshape(G, -1, D)
        start = (x if query is None else query).flatten(1, 2)
        y = start + (mixed if self.proj is None else self.proj(mixed))
        out: Tensor = y + self.fc2(nn.functional.gelu(self.fc1(self.norm2(y))))
        return out.view(G, n, -1, D)


class BlocksBank(nn.Module):
    """G attentive classifiers of several blocks, as V-JEPA 2 scores: tokens attend to each other, then a query to them.

    Source: Assran et al. 2025, "V-JEPA 2", whose attentive classifier has four blocks, three of them self-attention.

    Args:
        probes: G.
        channels: D.
        classes: C.
        heads: A; divides D.
        blocks: the last of which pools; at least 1.
        generator: draws the initial weights.
    """

    def __init__(
        self, probes: int, channels: int, classes: int, heads: int, blocks: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ModelError(f"attentive probe: {heads} heads do not divide {channels} channels")
        self.blocks = nn.ModuleList(
            _Attention(probes, channels, heads, generator, own=True, depth=i) for i in range(1, blocks)
        )
        self.query = nn.Parameter((torch.randn(1, 1, channels, generator=generator) * 0.02).repeat(probes, 1, 1, 1))
        self.pool = _Attention(probes, channels, heads, generator, own=False, depth=blocks)
        self.classify = _Linear(probes, channels, classes, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[G, n, C]`` of items ``[n, K, D]``."""
        G = len(self.query)
        h = x.expand(G, -1, -1, -1)
        for block in self.blocks:
            h = block(h)
        pooled = self.pool(h, self.query.expand(-1, len(x), -1, -1))
        found: Tensor = self.classify(pooled.flatten(1, 2))
        return found


Bank = LinearBank | AttentiveBank | BlocksBank


class BankAdamW:
    """AdamW with one learning rate and one weight decay per probe of a bank, cosine-decayed to 0.

    Every parameter has the bank as its first axis, so a per-probe rate is a broadcast. Make it when the bank lies on
    its device: its parameters' storage is replaced. Follows Loshchilov and Hutter 2019, algorithm 2, as torch's AdamW
    does (a test compares the two step by step).

    Args:
        bank: module whose parameters all start with the axis G.
        rates: learning rate of each probe.
        decays: weight decay of each probe.
        steps: length of the cosine schedule.
        betas: moment decay rates.
        eps: added to the denominator.
    """

    def __init__(
        self,
        bank: nn.Module,
        rates: Sequence[float],
        decays: Sequence[float],
        steps: int,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.parameters = list(bank.parameters())
        # The parameters become views of one matrix [G, all of a probe]: a small bank's step is a few operations then,
        # not a few for each parameter, which took a quarter of its time.
        self.values = torch.cat([p.detach().flatten(1) for p in self.parameters], dim=1)
        for p, part in zip(
            self.parameters, self.values.split([p[0].numel() for p in self.parameters], dim=1), strict=True
        ):
            p.data = part.view_as(p)
        device = self.values.device
        self.rates = torch.tensor(rates, dtype=torch.float32, device=device).unsqueeze(1)
        self.decays = torch.tensor(decays, dtype=torch.float32, device=device).unsqueeze(1)
        self.steps, self.betas, self.eps, self.step_count = steps, betas, eps, 0
        self.first, self.second = torch.zeros_like(self.values), torch.zeros_like(self.values)

    @torch.no_grad()
    def step(self, loss: Tensor) -> None:
        """One update from the summed loss of the bank (probes share no parameter, so their gradients stay apart)."""
        grad = torch.cat([g.flatten(1) for g in torch.autograd.grad(loss, self.parameters)], dim=1)
        lr = self.rates * (0.5 * (1 + math.cos(math.pi * self.step_count / self.steps)))
        self.step_count += 1
        b1, b2 = self.betas
        self.first.lerp_(grad, 1 - b1)
        self.second.mul_(b2).addcmul_(grad, grad, value=1 - b2)
        c1, c2 = 1 - b1**self.step_count, 1 - b2**self.step_count
        self.values.mul_(1 - lr * self.decays)
        spread = self.second.sqrt().mul_(c2**-0.5).add_(self.eps)
        self.values.addcmul_(self.first / spread, lr, value=-1 / c1)


def fit_bank(
    bank: Bank,
    features: Tensor,
    labels: Tensor,
    *,
    rates: Sequence[float],
    decays: Sequence[float],
    epochs: int,
    batch: int,
    generator: torch.Generator,
) -> None:
    """Train every probe of a bank on the same batches with cross-entropy.

    Args:
        bank: changed in place; on the device of ``features``.
        features: ``[N, D]`` or ``[N, K, D]`` float; standardised by the caller.
        labels: int64 ``[N]``.
        rates: learning rate of each probe.
        decays: weight decay of each probe.
        epochs: passes over the items.
        batch: items in a step; the last batch of an epoch may be smaller.
        generator: CPU generator of the order of items.
    """
    N = len(labels)
    optimiser = BankAdamW(bank, rates, decays, steps=epochs * math.ceil(N / batch))
    # One place for every batch: new memory for each took as long as several of a small bank's operations.
    place = features.new_empty(min(batch, N), *features.shape[1:])
    for _ in range(epochs):
        order = torch.randperm(N, generator=generator).to(labels.device)
        for chosen in order.split(batch):
            items = torch.index_select(features, 0, chosen, out=place[: len(chosen)])
            with torch.enable_grad():
                logits = bank(items.float())
                target = labels[chosen].expand(len(rates), -1).reshape(-1)
                # Summed over the bank and averaged over items: each probe sees its own mean loss.
                loss = nn.functional.cross_entropy(logits.flatten(0, 1), target) * len(rates)
                optimiser.step(loss)


@torch.inference_mode()
def predict(bank: Bank, features: Tensor, batch: int = 512, views: int = 1) -> Tensor:
    """Predicted class of every item by every probe.

    Args:
        bank: trained probes.
        features: ``[N V, D]`` or ``[N V, K, D]``, the views of an item one after the other.
        batch: items at a time.
        views: V; their probabilities are averaged.

    Returns:
        int64 ``[G, N]``.
    """
    if views == 1:
        return torch.cat([bank(x.float()).argmax(-1) for x in features.split(batch)], dim=1)
    seen = (bank(x.float()).softmax(-1).unflatten(1, (-1, views)).mean(2) for x in features.split(batch * views))
    return torch.cat([mean.argmax(-1) for mean in seen], dim=1)


@torch.inference_mode()
def nearest_neighbours(
    train: Tensor,
    labels: Tensor,
    features: Tensor,
    classes: int,
    ks: Sequence[int],
    *,
    temperature: float = 0.07,
    batch: int = 512,
    views: int = 1,
) -> Tensor:
    """Predicted class of every item by its k nearest training items, whose votes are weighted by similarity.

    Similarity is the cosine; a vote counts ``exp(similarity / temperature)`` (Wu et al. 2018, as DINO scores).

    Args:
        train: ``[N, D]`` features of the training items.
        labels: int64 ``[N]``.
        features: ``[n V, D]`` of the items, the views of one after the other.
        classes: C.
        ks: how many neighbours, one of the predictions each; at most N of them count.
        temperature: of the votes.
        batch: items at a time.
        views: V; their votes are added.

    Returns:
        int64 ``[len(ks), n]``.
    """
    known = nn.functional.normalize(train.float(), dim=1)
    found: list[Tensor] = []
    for x in features.split(batch * views):
        near, which = (nn.functional.normalize(x.float(), dim=1) @ known.T).topk(min(max(ks), len(known)), dim=1)
        weight, voted = (near / temperature).exp(), labels[which]
        votes = [torch.zeros(len(x), classes, device=x.device).scatter_add_(1, voted[:, :k], weight[:, :k]) for k in ks]
        summed = [v / v.sum(1, keepdim=True) for v in votes]
        found.append(torch.stack([s.unflatten(0, (-1, views)).sum(1).argmax(1) for s in summed]))
    return torch.cat(found, dim=1)


RIDGE_STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Penalties, as shares of a hundredth of the sum of squares of a standardised feature, over all features."""


@torch.inference_mode()
def ridge_accuracy(features: Tensor, labels: Tensor, classes: int) -> float:
    """Leave-one-out accuracy in percent of a linear classifier on all of an item's features, in closed form.

    Ridge regression on one-hot labels. Every item is predicted by a fit to the others, whose errors follow from the fit
    to all (Hastie, Tibshirani and Friedman 2009, eq. 7.64); the penalty of least squared error is taken. There is no
    intercept: an item that is left out lowers the mean of its own class, which would count against the right answer
    (by 2 points of 22 on miniature clips). Nothing is drawn, and nothing has to converge.

    Args:
        features: ``[n, D]`` or ``[n, K, D]`` float32; at least 3 items. Every column is standardised.
        labels: int64 ``[n]``.
        classes: C.

    Returns:
        From 0 to 100.
    """
    n = len(labels)
    columns = features.flatten(1)
    kernel = torch.zeros(n, n, dtype=torch.float32, device=features.device)
    # In parts: standardised columns of a large grid would take as much memory again as the features.
    for part in columns.split(4096, dim=1):
        z = (part - part.mean(0)) / part.std(0).clamp_min(1e-6)
        kernel.addmm_(z, z.T)
    values, vectors = torch.linalg.eigh(kernel.double() / columns.shape[1])
    target = nn.functional.one_hot(labels, classes).double()
    seen = vectors.T @ target
    best = (math.inf, 0.0)
    for strength in RIDGE_STRENGTHS:
        shrunk = values / (values + strength * n / 100)
        own = (vectors.square() * shrunk).sum(1, keepdim=True)
        residual = (target - (vectors * shrunk) @ seen) / (1 - own)
        right = ((target - residual).argmax(1) == labels).double().mean()
        best = min(best, (float(residual.square().mean()), 100 * float(right)))
    return best[1]
