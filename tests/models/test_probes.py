from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from equipoise.models.probes import (
    AttentiveBank,
    Bank,
    BankAdamW,
    BlocksBank,
    LinearBank,
    fit_bank,
    nearest_neighbours,
    predict,
    ridge_accuracy,
)

G, n, K, D, A, C = 3, 5, 7, 12, 4, 6


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def attentive(probes: int = G) -> AttentiveBank:
    bank = AttentiveBank(probes, D, C, A, gen())
    with torch.no_grad():
        for p in bank.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=gen(7)))
    return bank


@torch.no_grad()
def test_linear_bank_is_linear_probe_by_probe() -> None:
    bank = LinearBank(G, D, C, gen())
    assert torch.equal(bank.weight[0], bank.weight[2]), "probes of a bank differ in hyper-parameters only"
    bank.weight.add_(torch.randn(bank.weight.shape))
    bank.bias.add_(torch.randn(bank.bias.shape))
    x = torch.randn(n, D)
    out = bank(x)
    assert out.shape == (G, n, C)
    for g in range(G):
        torch.testing.assert_close(out[g], x @ bank.weight[g] + bank.bias[g, 0], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_attentive_bank_equals_multi_head_attention() -> None:
    bank, x = attentive(), torch.randn(n, K, D, generator=gen(1))
    out = bank(x)
    assert out.shape == (G, n, C)
    for g in range(G):
        attention = nn.MultiheadAttention(D, A, batch_first=True)
        attention.in_proj_weight.copy_(torch.cat([bank.query_proj[g].T, bank.key[g].T, bank.value[g].T]))
        attention.in_proj_bias.zero_()
        attention.in_proj_bias[:D] = bank.query_bias[g, 0]
        attention.out_proj.weight.copy_(bank.proj[g].T)
        attention.out_proj.bias.copy_(bank.proj_bias[g, 0])
        query = bank.query[g].expand(n, 1, D)
        y = query + attention(query, x, x, need_weights=False)[0]
        y = nn.functional.layer_norm(y, (D,), bank.norm_weight[g, 0], bank.norm_bias[g, 0])[:, 0]
        expected = y @ bank.classify[g] + bank.classify_bias[g, 0]
        torch.testing.assert_close(out[g], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_attentive_bank_equals_explicit_loops() -> None:
    bank, x = attentive(1), torch.randn(2, K, D, generator=gen(1))
    size = D // A
    query = bank.query[0].double() @ bank.query_proj[0].double() + bank.query_bias[0, 0].double()
    logits = []
    for item in x.double():
        keys, values = item @ bank.key[0].double(), item @ bank.value[0].double()
        heads = []
        for a in range(A):
            at = slice(a * size, a * size + size)
            scores = torch.tensor([float(k[at] @ query[at]) / math.sqrt(size) for k in keys], dtype=torch.float64)
            weights = (scores - scores.max()).exp()
            heads.append((weights / weights.sum()) @ values[:, at])
        y = torch.cat(heads) @ bank.proj[0].double() + bank.proj_bias[0, 0].double() + bank.query[0].double()
        y = (y - y.mean()) / (y.var(unbiased=False) + 1e-5).sqrt()
        y = y * bank.norm_weight[0, 0].double() + bank.norm_bias[0, 0].double()
        logits.append(y @ bank.classify[0].double() + bank.classify_bias[0, 0].double())
    torch.testing.assert_close(bank(x)[0].double(), torch.stack(logits), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_attentive_bank_does_not_read_the_order_of_tokens() -> None:
    bank, x = attentive(), torch.randn(n, K, D)
    torch.testing.assert_close(bank(x[:, torch.randperm(K)]), bank(x), rtol=1e-4, atol=1e-5)


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="5 heads do not divide 12 channels"):
        AttentiveBank(1, D, C, 5, gen())


def test_bank_adamw_equals_torch_step_by_step() -> None:
    rates, decays, steps = [1e-2, 3e-3, 1e-1], [0.5, 0.0, 0.01], 12
    bank = attentive()
    singles = []
    for g in range(G):
        single = attentive(1)
        with torch.no_grad():
            for p, q in zip(single.parameters(), bank.parameters(), strict=True):
                p.copy_(q[g : g + 1])
        adamw = torch.optim.AdamW(single.parameters(), lr=rates[g], weight_decay=decays[g])
        cosine = torch.optim.lr_scheduler.LambdaLR(adamw, lambda s: 0.5 * (1 + math.cos(math.pi * s / steps)))
        singles.append((single, adamw, cosine))
    optimiser = BankAdamW(bank, rates, decays, steps)
    for step in range(steps):
        x, y = torch.randn(n, K, D, generator=gen(step)), torch.randint(C, (n,), generator=gen(100 + step))

        def loss(model: nn.Module, x: Tensor = x, y: Tensor = y) -> Tensor:
            return sum((nn.functional.cross_entropy(logits, y) for logits in model(x)), torch.zeros(()))

        optimiser.step(loss(bank))
        for g, (single, adamw, cosine) in enumerate(singles):
            adamw.zero_grad()
            loss(single).backward()
            adamw.step()
            cosine.step()
            for (name, p), q in zip(single.named_parameters(), bank.parameters(), strict=True):
                assert torch.allclose(q[g], p[0], rtol=1e-4, atol=1e-5), f"probe {g} step {step} {name}"


def slow_blocks(bank: BlocksBank, g: int, x: Tensor) -> Tensor:
    """V-JEPA 2's attentive classifier, one item and one head at a time, with the parameters of probe ``g``."""

    def linear(m: nn.Module, v: Tensor) -> Tensor:
        return v @ m.get_parameter("weight")[g] + m.get_parameter("bias")[g, 0]

    def norm(m: nn.Module, v: Tensor) -> Tensor:
        centred = v - v.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * m.get_parameter("weight")[g, 0] + m.get_parameter("bias")[g, 0]

    def attended(block: nn.Module, asking: Tensor, seen: Tensor) -> Tensor:
        q, k, v = (linear(block.get_submodule(name), of) for name, of in (("q", asking), ("k", seen), ("v", seen)))
        heads = [
            (q[:, h] @ k[:, h].T / math.sqrt(D // A)).softmax(-1) @ v[:, h]
            for h in (slice(i * (D // A), (i + 1) * (D // A)) for i in range(A))
        ]
        return torch.cat(heads, dim=-1)

    def mlp(block: nn.Module, y: Tensor) -> Tensor:
        inner = linear(block.get_submodule("fc1"), norm(block.get_submodule("norm2"), y))
        gelu = 0.5 * inner * (1 + torch.erf(inner / math.sqrt(2)))
        return linear(block.get_submodule("fc2"), gelu)

    logits = []
    for item in x:
        h = item
        for block in bank.blocks:
            seen = norm(block.get_submodule("norm1"), h)
            h = h + linear(block.get_submodule("proj"), attended(block, seen, seen))
            h = h + mlp(block, h)
        query = bank.query[g, 0]
        query = query + attended(bank.pool, query, norm(bank.pool.norm1, h))
        query = query + mlp(bank.pool, query)
        logits.append(linear(bank.classify, query)[0])
    return torch.stack(logits)


@torch.no_grad()
@pytest.mark.parametrize("blocks", [1, 3])
def test_a_bank_of_blocks_is_vjepas_classifier_probe_by_probe(blocks: int) -> None:
    bank = BlocksBank(G, D, C, A, blocks, gen())
    for p in bank.parameters():
        p.add_(0.3 * torch.randn(p.shape, generator=gen(7)))
    x = torch.randn(n, K, D, generator=gen(1))
    for g in range(G):
        torch.testing.assert_close(bank(x)[g], slow_blocks(bank, g, x), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="5 heads do not divide 12 channels"):
        BlocksBank(1, D, C, 5, blocks, gen())


def test_neighbours_vote_by_similarity() -> None:
    train, labels = torch.randn(20, D, generator=gen(1)), torch.randint(C, (20,), generator=gen(2))
    x = torch.randn(9, D, generator=gen(3))
    found = nearest_neighbours(train, labels, x, C, [1, 4, 50], batch=4)
    for row, k in zip(found, (1, 4, 20), strict=True):  # of 20 there are no 50
        for item, predicted in zip(x, row, strict=True):
            cosine = [float(item @ t / item.norm() / t.norm()) for t in train]
            votes = [0.0] * C
            for near in sorted(range(20), key=lambda i: -cosine[i])[:k]:
                votes[labels[near]] += math.exp(cosine[near] / 0.07)
            assert int(predicted) == max(range(C), key=lambda c: votes[c])


@pytest.mark.parametrize("pooling", ["linear", "attentive", "blocks"])
def test_a_bank_equals_its_probes_trained_alone(pooling: str) -> None:
    x = torch.randn(30, D, generator=gen(1)) if pooling == "linear" else torch.randn(30, K, D, generator=gen(1))
    y = torch.randint(C, (30,), generator=gen(2))
    rates, decays = [1e-3, 3e-2, 1e-2], [0.0, 0.1, 0.3]

    def train(chosen: list[int]) -> Bank:
        bank: Bank
        if pooling == "linear":
            bank = LinearBank(len(chosen), D, C, gen(3))
        elif pooling == "blocks":
            bank = BlocksBank(len(chosen), D, C, A, 2, gen(3))
        else:
            bank = AttentiveBank(len(chosen), D, C, A, gen(3))
        fit_bank(bank, x, y, rates=[rates[i] for i in chosen], decays=[decays[i] for i in chosen], epochs=4, batch=8,
                 generator=gen(4))  # fmt: skip
        return bank

    together = train([0, 1, 2])
    for g in range(G):
        for p, q in zip(train([g]).parameters(), together.parameters(), strict=True):
            torch.testing.assert_close(q[g], p[0], rtol=1e-3, atol=1e-5)
    name = {"linear": "bias", "attentive": "value", "blocks": "query"}[pooling]
    assert not torch.allclose(together.get_parameter(name)[0], together.get_parameter(name)[1])


def test_linear_bank_learns_a_separable_problem() -> None:
    y = torch.arange(120) % C
    x = torch.eye(D)[y] * 3 + 0.3 * torch.randn(120, D, generator=gen(1))
    bank = LinearBank(2, D, C, gen())
    fit_bank(bank, x, y, rates=[0.1, 0.0], decays=[0.0, 0.0], epochs=10, batch=32, generator=gen(2))
    right = (predict(bank, x, batch=50) == y).float().mean(1)
    assert right[0] == 1.0
    assert right[1] < 0.6, "a probe with rate 0 learns nothing"


def test_attentive_bank_finds_the_token_that_carries_the_label() -> None:
    # The mean over tokens says little: distractors of other classes are four times as many, without the marker.
    def items(count: int, seed: int) -> tuple[Tensor, Tensor]:
        g = gen(seed)
        y = torch.randint(C, (count,), generator=g)
        tokens = torch.eye(D)[torch.randint(C, (count, K), generator=g)]
        place = torch.randint(K, (count,), generator=g)
        marked = torch.eye(D)[y]
        marked[:, C] = 2.0
        tokens[torch.arange(count), place] = marked
        return tokens + 0.05 * torch.randn(tokens.shape, generator=g), y

    x, y = items(600, 1)
    test_x, test_y = items(300, 2)
    bank = AttentiveBank(1, D, C, A, gen())
    fit_bank(bank, x, y, rates=[1e-2], decays=[0.0], epochs=30, batch=50, generator=gen(3))
    accuracy = (predict(bank, test_x)[0] == test_y).float().mean().item()
    linear = LinearBank(1, D, C, gen())
    fit_bank(linear, x.mean(1), y, rates=[1e-2], decays=[0.0], epochs=30, batch=50, generator=gen(3))
    pooled = (predict(linear, test_x.mean(1))[0] == test_y).float().mean().item()
    assert accuracy > 0.95
    assert pooled < accuracy - 0.2


def test_fit_is_reproducible_and_follows_its_generator() -> None:
    x, y = torch.randn(40, D, generator=gen(1)), torch.randint(C, (40,), generator=gen(2))

    def train(seed: int) -> Tensor:
        bank = LinearBank(1, D, C, gen())
        fit_bank(bank, x, y, rates=[0.01], decays=[0.0], epochs=2, batch=16, generator=gen(seed))
        return bank.weight.detach()

    assert torch.equal(train(5), train(5))
    assert not torch.equal(train(5), train(6))


def test_predict_does_not_depend_on_the_batch() -> None:
    bank, x = attentive(), torch.randn(11, K, D)
    assert predict(bank, x).shape == (G, 11)
    assert torch.equal(predict(bank, x, batch=3), predict(bank, x))
    assert torch.equal(predict(bank, x), bank(x).argmax(-1))


def left_out_one_by_one(x: Tensor, labels: Tensor, classes: int) -> float:
    """Ridge regression on one-hot labels, solved anew without each item."""
    z = ((x - x.mean(0)) / x.std(0)).double().numpy()
    items, columns = z.shape
    target = np.eye(classes)[labels.numpy()]
    best = (np.inf, 0.0)
    for strength in (0.01, 0.03, 0.1, 0.3, 1.0):
        penalty = strength * items / 100 * columns * np.eye(columns)
        predicted = np.empty_like(target)
        for i in range(items):
            others = np.arange(items) != i
            a = z[others].T @ z[others] + penalty
            predicted[i] = z[i] @ np.linalg.solve(a, z[others].T @ target[others])
        right = 100 * float((predicted.argmax(1) == labels.numpy()).mean())
        best = min(best, (float(((predicted - target) ** 2).mean()), right))
    return best[1]


def test_ridge_predicts_every_item_from_the_others() -> None:
    for seed in range(4):
        labels = torch.randint(0, 3, (40,), generator=gen(seed))  # classes of different sizes
        x = torch.randn(40, 2, 3, generator=gen(10 + seed))
        x[:, 0] += 2 * nn.functional.one_hot(labels, 3)
        found = ridge_accuracy(x, labels, 3)
        assert found == pytest.approx(left_out_one_by_one(x.flatten(1), labels, 3))
        assert 45 < found < 100


def test_ridge_learns_nothing_by_heart() -> None:
    """Far more features than items: labels that mean nothing are not told, classes that lie apart are."""
    labels = torch.arange(150) % 3
    x = torch.randn(150, 4, 1500, generator=gen())
    assert ridge_accuracy(x, labels[torch.randperm(150, generator=gen(1))], 3) < 50
    x[torch.arange(150), 2, labels] += 9
    x[:, 3] += 2 * x[:, 2, :3].repeat(1, 500)
    assert ridge_accuracy(x, labels, 3) > 90
