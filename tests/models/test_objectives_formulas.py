"""The loss objectives once more, in NumPy, float64, token by token, straight from the definitions; both must agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from equipoise.models.objectives import Latents, create, list_objectives
from equipoise.models.objectives.sigreg import SIGReg

Array = npt.NDArray[Any]


@dataclass
class Case:
    """One mask, as arrays; ``still`` clips take no part in temporal terms."""

    z: Array
    visible: Array
    h: Array
    predicted: Array
    masked: Array
    clip: Array
    patch: int
    tubelet: int
    still: Array

    def runs(self, length: int) -> Iterator[tuple[int, int, int, int]]:
        """(b, t, y, x) where ``length`` tokens from t on are visible at one place of a moving clip."""
        B, T, H, W = self.visible.shape
        for b, t, y, x in np.ndindex(B, T - length + 1, H, W):
            if not self.still[b] and all(self.visible[b, t + k, y, x] for k in range(length)):
                yield b, t, y, x

    def tokens(self) -> Array:
        return np.array([self.z[i] for i in np.ndindex(*self.visible.shape) if self.visible[i]])


def app_channels(D: int, ratio: float, split: str, levels: int) -> list[int]:
    if split == "levels":
        return list(range(int(D * ratio)))
    width = D // levels
    return [level * width + c for level in range(levels) for c in range(int(width * ratio))]


def after(i: tuple[int, int, int, int], k: int = 1) -> tuple[int, int, int, int]:
    return i[0], i[1] + k, i[2], i[3]


def gelu(x: Array) -> Array:
    return np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])


def head(weights: list[Array], x: Array) -> Array:
    for k in range(0, len(weights), 2):
        x = weights[k] @ (x if k == 0 else gelu(x)) + weights[k + 1]
    return x


def softmax_weights(errors: list[float], tau: float) -> list[float]:
    e = [math.exp(v / tau) for v in errors]
    return [len(e) * v / sum(e) for v in e]


def hard_region(c: Case, w: list[Array], tau: float = 1.0) -> float:
    B, T, H, W = c.visible.shape
    values = []
    for b in range(B):
        h = c.h[b].reshape(T * H * W, -1)
        errors = [float(np.mean(np.abs(c.predicted[b, k] - h[m]))) for k, m in enumerate(c.masked[b])]
        values += [a * e for a, e in zip(softmax_weights(errors, tau), errors, strict=True)]
    return float(np.mean(values))


def static_appearance(
    c: Case, w: list[Array], app_ratio: float = 0.5, split: str = "channels", levels: int = 4
) -> float:
    app = app_channels(c.z.shape[-1], app_ratio, split, levels)
    return float(np.mean([[abs(c.z[after(i)][k] - c.z[i][k]) for k in app] for i in c.runs(2)]))


def cross_covariance(
    c: Case, w: list[Array], app_ratio: float = 0.5, split: str = "channels", levels: int = 4
) -> float:
    tokens = c.tokens()
    app = app_channels(tokens.shape[1], app_ratio, split, levels)
    dyn = [k for k in range(tokens.shape[1]) if k not in app]
    full = np.cov(tokens.T)
    return float(np.mean([full[a, d] ** 2 for a in app for d in dyn]))


def delta(c: Case, w: list[Array]) -> float:
    return float(np.mean([np.abs(c.z[after(i)] - c.z[i] - c.h[after(i)] + c.h[i]) for i in c.runs(2)]))


def latent_dynamics(
    c: Case,
    w: list[Array],
    weighting: str = "none",
    tau: float = 1.0,
    subspace: str = "all",
    app_ratio: float = 0.5,
    split: str = "channels",
    levels: int = 4,
    **_: Any,
) -> float:
    D = c.z.shape[-1]
    app = app_channels(D, app_ratio, split, levels) if subspace == "dynamics" else []
    read = [k for k in range(D) if k not in app]
    errors = [float(np.mean(np.abs(head(w, c.z[i][read]) - (c.h[after(i)] - c.h[i])))) for i in c.runs(2)]
    weights = softmax_weights(errors, tau) if weighting == "hard" else [1.0] * len(errors)
    return float(np.mean([a * e for a, e in zip(weights, errors, strict=True)]))


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def temporal_contrast(c: Case, w: list[Array], margin: float = 0.5) -> float:
    return float(
        np.mean([max(0.0, margin - cosine(c.z[i], c.h[i]) + cosine(c.z[i], c.h[after(i)])) for i in c.runs(2)])
    )


def spectral(c: Case, w: list[Array], low: float = 0.1, high: float = 1.0) -> float:
    T = c.visible.shape[1]
    F = T // 2 + 1
    values = []
    for b, _, y, x in c.runs(T):
        for f in range(F):
            wave = np.exp(-2j * np.pi * f * np.arange(T) / T)
            gain = low + (high - low) * f / (F - 1)
            values.append(gain * np.abs(wave @ c.z[b, :, y, x] - wave @ c.h[b, :, y, x]))
    return float(np.mean(values))


def colour(c: Case, i: tuple[int, int, int, int]) -> Array:
    b, t, y, x = i
    p, u = c.patch, c.tubelet
    block: Array = c.clip[b, :, t * u : (t + 1) * u, y * p : (y + 1) * p, x * p : (x + 1) * p]
    return np.array([channel.mean() for channel in block])


def action(c: Case, w: list[Array], **_: Any) -> float:
    return float(np.mean([np.abs(head(w, c.z[i]) - (colour(c, after(i)) - colour(c, i))) for i in c.runs(2)]))


def factorized_action(
    c: Case, w: list[Array], app_ratio: float = 0.5, split: str = "channels", levels: int = 4, **_: Any
) -> float:
    D = c.z.shape[-1]
    app = app_channels(D, app_ratio, split, levels)
    dyn = [k for k in range(D) if k not in app]
    return float(np.mean([np.abs(head(w, c.z[i][dyn]) - (colour(c, after(i)) - colour(c, i))) for i in c.runs(2)]))


def differences(c: Case, order: int, on: str) -> Array:
    if on == "target":
        keep = [b for b in range(len(c.still)) if not c.still[b]]
        return np.diff(c.h[keep], n=order, axis=1)
    if order == 1:
        return np.array([c.z[after(i)] - c.z[i] for i in c.runs(2)])
    return np.array([c.z[after(i, 2)] - 2 * c.z[after(i)] + c.z[i] for i in c.runs(3)])


def kinematic_velocity(c: Case, w: list[Array], on: str = "student") -> float:
    return float(np.mean(np.abs(differences(c, 1, on))))


def kinematic_huber(c: Case, w: list[Array], on: str = "student", delta: float = 0.1) -> float:
    values = np.abs(differences(c, 1, on)).ravel()
    return float(np.mean([0.5 * v * v if v <= delta else delta * (v - 0.5 * delta) for v in values]))


def kinematic_acceleration(c: Case, w: list[Array], on: str = "student") -> float:
    return float(np.mean(np.abs(differences(c, 2 if c.z.shape[1] >= 3 else 1, on))))


def kinematic_split(c: Case, w: list[Array], on: str = "student", ratio: float = 0.5) -> float:
    used = differences(c, 2 if c.z.shape[1] >= 3 else 1, on)[..., : int(c.z.shape[-1] * ratio)]
    return float(np.mean(np.abs(used)))


def epps_pulley(samples: Array, nodes: int, t_max: float) -> float:
    """Trapezoid rule over the whole of [-t_max, t_max], complex characteristic function."""
    t = np.linspace(-t_max, t_max, 2 * nodes - 1)
    phi = np.array([np.mean(np.exp(1j * s * samples)) for s in t])
    gauss = np.exp(-(t**2) / 2)
    return float(np.trapezoid(np.abs(phi - gauss) ** 2 * gauss, t))


def hamiltonian(c: Case, w: list[Array], dt: float = 0.1, **_: Any) -> float:
    half = c.z.shape[-1] // 2

    def slope(q: Array, p: Array, wrt_p: bool) -> Array:
        out = np.zeros(half)
        for k in range(half):
            step = np.zeros(half)
            step[k] = 1e-5
            up = (q, p + step) if wrt_p else (q + step, p)
            down = (q, p - step) if wrt_p else (q - step, p)
            rise = head(w, np.concatenate(up)) - head(w, np.concatenate(down))
            out[k] = rise[0] / 2e-5
        return out

    values = []
    for i in c.runs(2):
        q, p = c.z[i][:half], c.z[i][half:]
        q_next = q + dt * slope(q, p, True)
        p_next = p - dt * slope(q_next, p, False)
        h = c.h[after(i)]
        values.append(np.abs(q_next - h[:half]) + np.abs(p_next - h[half:]))
    return float(np.mean(values))


def velocity_gate(c: Case, w: list[Array], percentile: float = 0.5) -> float:
    values = []
    for b, t, y, x in c.runs(2):
        norms = np.sqrt(np.sum((c.h[b, t + 1] - c.h[b, t]) ** 2, axis=-1))
        gate = norms[y, x] <= np.quantile(norms, percentile)
        values.append(np.abs(c.z[b, t + 1, y, x] - c.z[b, t, y, x]) * gate)
    return float(np.mean(values))


FORMULAS: dict[str, Callable[..., float]] = {
    f.__name__: f
    for f in (
        hard_region,
        static_appearance,
        cross_covariance,
        delta,
        latent_dynamics,
        temporal_contrast,
        spectral,
        action,
        factorized_action,
        kinematic_velocity,
        kinematic_huber,
        kinematic_acceleration,
        kinematic_split,
        hamiltonian,
        velocity_gate,
    )
}
"""All but ``sigreg``, whose directions are random: ``epps_pulley`` is its formula for one direction."""


def case(seed: int, shape: tuple[int, int, int, int] = (3, 5, 3, 2), still: tuple[int, ...] = ()) -> Case:
    rng = np.random.default_rng(seed)
    B, T, H, W = shape
    D, patch, tubelet = 16, 2, 2
    visible = rng.random(shape) < 0.7
    visible[:, :, 0, 0] = True  # so that every term has something that qualifies
    visible[:, 0, 1, :] = False
    n = T * H * W
    masked = np.stack([rng.permutation(n)[:7] for _ in range(B)])
    return Case(
        z=rng.normal(size=(*shape, D)) * visible[..., None],
        visible=visible,
        h=rng.normal(size=(*shape, D)).cumsum(axis=1),
        predicted=rng.normal(size=(B, 7, D)),
        masked=masked,
        clip=rng.normal(size=(B, 3, T * tubelet, H * patch, W * patch)),
        patch=patch,
        tubelet=tubelet,
        still=np.array([b in still for b in range(B)]),
    )


def latents(c: Case) -> Latents:
    t = torch.from_numpy
    return Latents(
        t(c.z), t(c.visible), t(c.h), t(c.predicted), t(c.masked), t(c.clip), c.patch, c.tubelet, still=t(c.still)
    )


LOSSES = [r.name for r in list_objectives() if r.kind == "loss"]
OTHER_PARAMS: dict[str, list[dict[str, Any]]] = {
    "hard_region": [{"tau": 0.1}],
    "static_appearance": [{"split": "levels"}, {"app_ratio": 0.3}, {"levels": 2, "app_ratio": 0.25}],
    "cross_covariance": [{"split": "levels", "app_ratio": 0.25}],
    "latent_dynamics": [
        {"hidden": 5},
        {"weighting": "hard", "tau": 0.2},
        {"subspace": "dynamics"},
        {"subspace": "dynamics", "split": "levels", "app_ratio": 0.25, "weighting": "hard"},
    ],
    "temporal_contrast": [{"margin": 0.0}, {"margin": 2.0}],
    "spectral": [{"low": 1.0, "high": 0.0}],
    "action": [{"hidden": 5}],
    "factorized_action": [{"split": "levels", "app_ratio": 0.25, "hidden": 7}],
    "kinematic_velocity": [{"on": "target"}],
    "kinematic_huber": [{"on": "target"}, {"delta": 2.0}],
    "kinematic_acceleration": [{"on": "target"}],
    "kinematic_split": [{"on": "target"}, {"ratio": 0.3}],
    "hamiltonian": [{"dt": 1.0, "hidden": 9}],
    "velocity_gate": [{"percentile": 0.2}, {"percentile": 1.0}],
}


@pytest.mark.parametrize("still", [(), (1,)], ids=["moving", "one still"])
@pytest.mark.parametrize(
    ("name", "params"), [(n, p) for n in LOSSES if n != "sigreg" for p in [{}, *OTHER_PARAMS.get(n, [])]]
)
def test_objective_is_its_formula(name: str, params: dict[str, Any], still: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    objective = create(name, channels=16, **params).double()
    c = case(seed=3, still=still)
    weights = [p.detach().numpy() for p in objective.parameters()]
    value = objective(latents(c))
    assert value.item() == pytest.approx(FORMULAS[name](c, weights, **params), rel=1e-6)


@pytest.mark.parametrize("per_token", [True, False])
def test_sigreg_is_its_formula(per_token: bool) -> None:
    c = case(seed=4, still=(0,))
    objective = SIGReg(16, slices=6, nodes=9, t_max=2.5, per_token=per_token)
    directions = objective.directions(16, torch.device("cpu")).double().numpy()
    tokens = c.tokens()
    expected = np.mean([epps_pulley(tokens @ d, 9, 2.5) for d in directions.T])
    value = objective(latents(c))
    assert value is not None
    assert value.item() == pytest.approx(expected * (1 if per_token else len(tokens)), rel=1e-6)


@pytest.mark.parametrize("name", ["kinematic_acceleration", "kinematic_split"])
@pytest.mark.parametrize("on", ["student", "target"])
def test_acceleration_of_two_slots_is_velocity(name: str, on: str) -> None:
    c = case(seed=5, shape=(2, 2, 3, 2))
    assert create(name, channels=16, on=on)(latents(c)).item() == pytest.approx(FORMULAS[name](c, [], on=on), rel=1e-6)


@pytest.mark.parametrize("name", ["kinematic_acceleration", "kinematic_split"])
@pytest.mark.parametrize("on", ["student", "target"])
def test_three_slots_are_enough_for_an_acceleration(name: str, on: str) -> None:
    c = case(seed=6, shape=(2, 3, 3, 2))
    c.visible[:] = True
    found = create(name, channels=16, on=on)(latents(c)).item()
    assert found == pytest.approx(FORMULAS[name](c, [], on=on), rel=1e-6)
    z = (c.h if on == "target" else c.z)[..., : 8 if name == "kinematic_split" else 16]
    assert found == pytest.approx(float(np.abs(z[:, 2] - 2 * z[:, 1] + z[:, 0]).mean()), rel=1e-5)


@pytest.mark.parametrize(("slots", "there"), [(3, False), (4, True)])
def test_frequencies_need_four_slots(slots: int, there: bool) -> None:
    c = case(seed=7, shape=(2, slots, 3, 2))
    c.visible[:] = True
    assert (create("spectral", channels=16)(latents(c)) is not None) == there


def test_one_token_has_no_covariance() -> None:
    """One token has no spread: dividing by none of it would be an infinite loss."""
    c = case(seed=8)
    c.visible[:] = False
    c.visible[0, 1, 1, 1] = True
    assert create("cross_covariance", channels=16)(latents(c)) is None
    c.visible[1, 2, 0, 1] = True
    found = create("cross_covariance", channels=16)(latents(c))
    assert found.item() == pytest.approx(FORMULAS["cross_covariance"](c, []), rel=1e-5)


def test_every_loss_has_a_formula() -> None:
    assert set(FORMULAS) | {"sigreg"} == set(LOSSES)
