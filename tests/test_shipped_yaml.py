"""Every YAML that ships is loaded, built and stepped.

The published sizes are prohibitive for a test: presets are stepped with their model shrunk to a few channels (all other
keys as shipped), and the full-size models are built on the meta device, where shapes are real and numbers are not.
"""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from equipoise.models.encoders import VideoEncoder
from equipoise.models.jepa import ClipGroup, StepOutput, VideoJEPA
from equipoise.models.masking import MaskSampler, motion_map
from equipoise.models.objectives import published_objectives
from equipoise.models.predictor import Predictor
from equipoise.platform.seeds import generator
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.files import load_yaml, shipped
from equipoise.platform.settings.mix import Mix, resolve
from equipoise.platform.settings.preset import Preset, load_preset
from equipoise.platform.settings.study import load_ablation, load_sweep
from equipoise.platform.settings.trial import TrialSettings, load_regime
from equipoise.platform.settings.variant import CONTROLS, RECORDS, Reading, Variant, controls_of, load_variant, variants
from equipoise.platform.trial.encoders import build_model

ROOT = Path(str(resources.files("equipoise.search_spaces")))
PRESETS, REGIMES, SPACES, STUDIES = (tuple(shipped(f)) for f in ("presets", "regimes", "spaces", "studies"))
READINGS: tuple[Reading, ...] = ("as_described", "as_published")
SHRUNK = (
    "model.frames=8",
    "model.size=64",
    "cache_size=64",
    "model.encoder.patch=16",
    "model.encoder.width=24",
    "model.encoder.depth=4",
    "model.encoder.heads=2",
    "model.predictor.width=12",
    "model.predictor.depth=1",
    "model.predictor.heads=2",
    "probes.attentive.heads=2",
)

# The published weights, from the paper's table and code; the shipped file is checked against this copy.
AGGRESSIVE = {"strength": 5.0, "random_rate": 0.0}
OBJECTIVES = {record.name for record in published_objectives()}
PUBLISHED: dict[str, dict[str, float]] = {
    "motion_guided": {"motion_guided": 1.0},
    "amg": {"motion_guided": 1.0},
    "hw": {"hard_region": 0.3},
    "delta": {"delta": 0.5},
    "fwm": {"static_appearance": 0.05, "cross_covariance": 0.01},
    "ld": {"latent_dynamics": 1.0},
    "fwm_ld": {"static_appearance": 0.05, "cross_covariance": 0.01, "latent_dynamics": 1.0},
    "hw_ld": {"hard_region": 1.0, "latent_dynamics": 1.0},
    "fwm_hw_ld": {"static_appearance": 0.05, "cross_covariance": 0.01, "hard_region": 1.0, "latent_dynamics": 1.0},
    "combo": {"delta": 0.5, "hard_region": 0.3, "motion_guided": 1.0},
    "spectral": {"spectral": 1.0},
    "ltc": {"temporal_contrast": 0.5},
    "ac": {"action": 1.0},
    "ac_hw": {"action": 1.0, "hard_region": 0.3},
    "fac": {"static_appearance": 0.05, "cross_covariance": 0.01, "factorized_action": 1.0},
    "kinematic": {"kinematic_velocity": 1.0},
    "kinematic_0_1": {"kinematic_velocity": 0.1},
    "kinematic_huber": {"kinematic_huber": 0.1},
    "kinematic_accel": {"kinematic_acceleration": 0.1},
    "kinematic_split": {"kinematic_split": 0.1},
    "kinematic_anneal": {"kinematic_velocity": 0.1},
    "sigreg": {"sigreg": 1.0},
    "sigreg_no_ema": {"sigreg": 1.0},
    "hamiltonian": {"hamiltonian": 1.0},
    "velgate": {"velocity_gate": 1.0},
    "future_predictive": {"future_predictive": 1.0},
    "motion_future": {"motion_guided": 1.0, "future_predictive": 1.0},
}


def test_no_yaml_is_left_out() -> None:
    folders = ("presets", "regimes", "spaces", "studies", "published", "claims")
    known = {p for f in folders for p in (ROOT / f).glob("*.yaml")}
    assert set(ROOT.rglob("*.y*ml")) == known | {ROOT / "variants.yaml"}
    assert PRESETS
    assert REGIMES
    assert SPACES
    assert STUDIES


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.yaml")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_key_is_written_twice(path: Path) -> None:
    """PyYAML keeps the last of two equal keys without a word."""

    def walk(node: yaml.Node | None) -> Iterator[str]:
        if isinstance(node, yaml.MappingNode):
            keys = [k.value for k, _ in node.value]
            yield from (k for k in set(keys) if keys.count(k) > 1)
            for _, value in node.value:
                yield from walk(value)

    assert list(walk(yaml.compose(path.read_text()))) == []


@pytest.mark.parametrize("name", PRESETS)
def test_preset(name: str) -> None:
    preset = load_preset(name)
    assert preset.name == name, "the file and its name agree"
    assert preset.description
    assert set(preset.probes) == {"attentive", "linear"}
    assert all(name == probe.kind for name, probe in preset.probes.items())
    assert preset.optimisation.warmup_steps < preset.optimisation.steps
    assert preset.checkpoint_every <= preset.optimisation.steps


@pytest.mark.parametrize("name", REGIMES)
def test_regime(name: str) -> None:
    regime = load_regime(name)
    assert regime.name == name
    assert regime.description
    assert sum(s.weight for s in regime.sources.values()) == pytest.approx(1.0)
    assert len(regime.benchmarks) == 3
    assert all(b.title and b.train != b.test for b in regime.benchmarks.values())


def test_published_variants_carry_the_published_weights() -> None:
    found = {name: {k: s.weight for k, s in load_variant(name).objectives.items()} for name in PUBLISHED}
    assert found == PUBLISHED
    assert set(load_yaml(ROOT / "variants.yaml")) == set(PUBLISHED) | set(CONTROLS)
    assert {o for v in PUBLISHED.values() for o in v} == OBJECTIVES, "every published objective is in a variant"
    with_params = {n: {k: s.params for k, s in v.objectives.items() if s.params} for n, v in variants().items()}
    given = {n: p for n, p in with_params.items() if p}
    assert given == {n: {"motion_guided": AGGRESSIVE} for n in ("amg", "aggressive_motion_guided", "combo")}
    scheduled = {n for n, v in variants().items() if any(s.schedule != "constant" for s in v.objectives.values())}
    assert scheduled == {"kinematic_anneal"}
    own = {n for n, v in variants().items() if v.published_teacher or v.teacher == "self"}
    assert own == {n for n in PUBLISHED if n.startswith("kinematic")} | {"sigreg_no_ema"}


def test_published_table_names_shipped_variants_and_regimes() -> None:
    with (ROOT / "published" / "factorized_latent_dynamics.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 88
    for row in rows:
        assert row["regime"] in REGIMES
        assert row["regime"] in load_variant(row["variant"]).regimes, row


def test_flags_of_the_published_table_are_what_the_published_reading_does() -> None:
    flags = load_yaml(ROOT / "published" / "factorized_latent_dynamics.flags.yaml")
    mixes = {name: resolve(settings_of("nano", load_variant(name), "as_published")) for name in PUBLISHED}
    untrained = {name for name, mix in mixes.items() if mix.untrained_allowed}
    dead = {name for name, mix in mixes.items() if any(t.detached for t in mix.terms)}
    assert {v for names in flags["untrained_encoder"]["variants"].values() for v in names} == untrained
    assert {v for names in flags["dead_loss"]["variants"].values() for v in names} == dead


@functools.cache
def preset_of(name: str, overrides: tuple[str, ...]) -> Preset:
    return load_preset(name, overrides)


def settings_of(preset: str, variant: Variant, reading: Reading, overrides: tuple[str, ...] = ()) -> TrialSettings:
    data = {
        "variant_name": "x",
        "variant": variant,
        "reading": reading,
        "preset": preset_of(preset, overrides),
        "regime": load_regime("miniature"),
    }
    return parse(TrialSettings, data, "test")


def clip_groups(mix: Mix) -> list[ClipGroup]:
    """Three clips that move and two stills, as a training step sees them."""
    c = mix.model
    g = torch.Generator().manual_seed(0)
    video = torch.randn(3, 3, c.frames, c.size, c.size, generator=g)
    image = torch.randn(2, 3, 1, c.size, c.size, generator=g)

    def group(kind: str, clip: torch.Tensor, still: torch.Tensor | None = None) -> ClipGroup:
        grid = c.grid(kind)  # type: ignore[arg-type]
        moves = kind == "video"
        policies = {"motion_guided": mix.motion_guided, "future_predictive": mix.future_predictive} if moves else {}
        sampler = MaskSampler(grid, c.masks, **policies)  # type: ignore[arg-type]
        motion = motion_map(clip, grid, scale=mix.motion_scale) if moves and mix.motion_guided else None
        masks = sampler.sample(len(clip), generator(0, kind), motion=motion, shares=mix.shares if moves else None)
        return ClipGroup(clip, masks, still)

    if mix.images == "repeat":
        still = torch.tensor([False] * 3 + [True] * 2) if mix.leave_out_still else None
        return [group("video", torch.cat([video, image.expand(-1, -1, c.frames, -1, -1)]), still)]
    return [group("video", video), group("image", image)]


def step(settings: TrialSettings, absent: frozenset[str] = frozenset()) -> tuple[Mix, VideoJEPA, StepOutput]:
    """One optimiser step late in training, where every schedule gives weight to everything."""
    mix = resolve(settings)
    model = build_model(settings, mix)
    o = settings.preset.optimisation
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=o.lr)
    middle = int(0.75 * o.steps)
    weights = mix.weights_at(middle, o.steps)
    out = model(clip_groups(mix), weights, mix.context.at(middle, o.steps))
    out.loss.backward()
    parts = {"jepa", "context", *(t.name for t in mix.terms)} - absent
    assert parts == set(out.values), "every part of the mix is in the loss"
    assert math.isfinite(out.loss.item())
    for name, p in model.named_parameters():
        assert p.grad is None or torch.isfinite(p.grad).all(), name
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.encoder.parameters())
    before = [p.clone() for p in model.target_encoder.parameters()]
    optimiser.step()
    model.update_target()
    moved = any(not torch.equal(a, b) for a, b in zip(before, model.target_encoder.parameters(), strict=True))
    assert moved is (mix.model.teacher.mode == "ema")
    return mix, model, out


def cases() -> list[object]:
    slow = pytest.mark.slow
    return [
        pytest.param(preset, name, reading, marks=() if preset == "nano" else slow)
        for preset in PRESETS
        for name in (*PUBLISHED, "baseline")
        for reading in READINGS
    ]


@pytest.mark.parametrize(("preset", "variant", "reading"), cases())
def test_every_variant_of_every_preset_takes_a_step(preset: str, variant: str, reading: Reading) -> None:
    settings = settings_of(preset, load_variant(variant), reading, SHRUNK)
    assert settings.preset.optimisation == load_preset(preset).optimisation
    mix, model, out = step(settings)
    for term in mix.terms:
        head = list(model.objectives[term.name].parameters())
        reached = any(p.grad is not None and p.grad.abs().sum() > 0 for p in head)
        assert reached is (bool(head) and not term.detached), term.name
        dead = term.detached or (reading == "as_published" and term.params.get("on") == "target" and
                                 mix.model.teacher.mode == "ema")  # fmt: skip
        assert out.weighted[term.name].requires_grad is not dead, term.name


def test_published_dead_loss_trains_as_without_it() -> None:
    """`hw_ld` as published equals `hw` at weight 1 bit for bit: the latent-dynamics term trains nothing."""
    weights = {"hw_ld": load_variant("hw_ld"), "hw": parse(Variant, {"objectives": {"hard_region": 1.0}}, "x")}
    trained = {}
    for name, variant in weights.items():
        _, model, _ = step(settings_of("nano", variant, "as_published", SHRUNK))
        trained[name] = {k: v for k, v in model.state_dict().items() if not k.startswith("objectives.")}
    assert all(torch.equal(v, trained["hw"][k]) for k, v in trained["hw_ld"].items())
    _, described, _ = step(settings_of("nano", weights["hw_ld"], "as_described", SHRUNK))
    _, alone, _ = step(settings_of("nano", weights["hw"], "as_described", SHRUNK))
    other = alone.encoder.state_dict()
    assert any(not torch.equal(v, other[k]) for k, v in described.encoder.state_dict().items())


def test_every_variant_is_built_at_its_full_size() -> None:
    """Objectives are created with the widths of every preset, in both readings."""
    for preset in PRESETS:
        for name, variant in variants().items():
            if variant.unchanged:  # needs a preset that starts from a checkpoint
                continue
            for reading in READINGS:
                mix = resolve(settings_of(preset, variant, reading))
                assert {t.name for t in mix.terms} == {k for k in variant.objectives if RECORDS[k].kind == "loss"}, name


@pytest.mark.parametrize("preset", PRESETS)
def test_full_size_model_on_the_meta_device(preset: str) -> None:
    """Shapes of a whole forward at the shipped size; the published one has 1568 tokens and a ViT-B."""
    c = load_preset(preset).model
    grid = c.grid()
    with torch.device("meta"):
        encoder = VideoEncoder(c.encoder, grid)
        predictor = Predictor(c.predictor, c.encoder.channels, grid, len(c.masks.blocks))
        clip = torch.empty(2, 3, c.frames, c.size, c.size)
    patches, kind = encoder.patches(clip)
    assert encoder(patches, kind).shape == (2, grid.count, c.encoder.channels)
    masks = MaskSampler(grid, c.masks).sample(2, torch.Generator().manual_seed(0))
    for policy, drawn in enumerate(masks):
        m = drawn.to("meta")
        masked, visible = predictor(encoder(patches, kind, m.visible), m.visible, m.masked, policy)
        assert masked.shape == (2, drawn.masked.shape[1], c.encoder.channels)
        assert visible.shape == (2, drawn.visible.shape[1], c.encoder.channels)
    if preset == "base":
        assert grid.shape == (8, 14, 14)
        parameters = sum(p.numel() for p in encoder.parameters())
        assert parameters == pytest.approx(86e6, rel=0.03), "a ViT-B"


def test_nano_at_its_real_size_takes_a_step() -> None:
    step(settings_of("nano", load_variant("fwm_hw_ld"), "as_described"))


@pytest.mark.parametrize("name", SPACES)
def test_search_space(name: str) -> None:
    space = load_sweep(name, {})
    assert space.name == name
    assert space.description
    assert set(space.objectives) == OBJECTIVES, "a shipped space searches all published objectives"
    preset, regime = space.load()
    for control, variant, seed in space.controls():
        resolve(space.trial(control, variant, seed, preset, regime))
    assert len(space.starts) <= space.trials
    for start in space.starts:
        found = space.variant(space.point(load_variant(start)))
        assert full(found) == full(load_variant(start)), "it runs under the published name"
        resolve(space.trial(start, found, 0, preset, regime))


def full(variant: Variant) -> dict[str, Any]:
    """Weight, schedule and every parameter, defaults written out: what two spellings of one mix have in common."""
    return {k: (s.weight, s.schedule, {**RECORDS[k].params, **s.params}) for k, s in variant.objectives.items()}


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("end", ["low", "high"])
def test_every_objective_at_once_at_the_ends_of_a_search_space(name: str, end: str) -> None:
    space = load_sweep(name, {"set": SHRUNK})
    point: dict[str, Any] = {k: getattr(r, end) for k, r in space.objectives.items()}
    for k, r in space.objectives.items():
        point |= {f"{k}.{name}": axis.ends[0 if end == "low" else -1] for name, axis in r.conditional.items()}
    variant = space.variant(point)
    assert set(variant.objectives) == OBJECTIVES
    # With the future hidden in every clip, no place is visible in three slots, as these terms need.
    hidden = variant.objectives["future_predictive"].weight == 1.0
    absent = frozenset({"spectral", "kinematic_acceleration", "kinematic_split"}) if hidden else frozenset()
    step(space.trial("all", variant, 0, *space.load()), absent)


@pytest.mark.parametrize("name", STUDIES)
def test_study(name: str) -> None:
    study = load_ablation(name, {})
    assert study.name == name
    assert study.description
    preset, regime = study.load()
    settings = [study.trial(n, v, s, preset, regime) for n, v, s in [*study.controls(), *study.members()]]
    for s in settings:
        resolve(s)
    assert len({s.key for s in settings}) == len(settings), "no trial is asked for twice"
    planned = study.plan()
    cells = {cell.variant_name for cell in planned.cells} if planned is not None else set()
    mixes = {*study.variants, *study.custom, *cells, *controls_of(preset)}
    assert len(settings) == len(mixes) * len(study.seeds)
