from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from equipoise.models.encoders import EncoderConfig
from equipoise.models.jepa import ClipGroup, JepaConfig, StepOutput, TeacherConfig, Term, VideoJEPA
from equipoise.models.losses import context_loss, prediction_loss
from equipoise.models.masking import BlockSpec, Mask, MaskConfig, MaskSampler
from equipoise.models.predictor import PredictorConfig

ALL = {"jepa", "context"}


def config(**teacher: object) -> JepaConfig:
    return JepaConfig(
        frames=4,
        size=16,
        encoder=EncoderConfig(width=12, depth=2, heads=2, patch=4, tubelet=2, levels=2, rope_theta=10.0),
        predictor=PredictorConfig(width=12, depth=1, heads=2, rope_theta=10.0),
        masks=MaskConfig(blocks=(BlockSpec(count=2, area=0.25), BlockSpec(count=1, area=0.5))),
        teacher=TeacherConfig(**teacher),  # type: ignore[arg-type]
    )


def build(terms: Sequence[Term] = (), **teacher: object) -> VideoJEPA:
    torch.manual_seed(0)
    model = VideoJEPA(config(**teacher), terms)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def masks(kind: str = "video", batch: int = 2) -> list[Mask]:
    c = config()
    return MaskSampler(c.grid(kind), c.masks).sample(batch, torch.Generator().manual_seed(3))  # type: ignore[arg-type]


def videos(batch: int = 2, seed: int = 0) -> ClipGroup:
    clip = torch.randn(batch, 3, 4, 16, 16, generator=torch.Generator().manual_seed(seed))
    return ClipGroup(clip, masks("video", batch))


def images(batch: int = 3) -> ClipGroup:
    clip = torch.randn(batch, 3, 1, 16, 16, generator=torch.Generator().manual_seed(9))
    return ClipGroup(clip, masks("image", batch))


def by_hand(model: VideoJEPA, group: ClipGroup) -> tuple[list[Tensor], list[Tensor]]:
    """Prediction and context loss of every mask, from the parts alone."""
    patches, kind = model.encoder.patches(group.clip)
    grid = model.config.grid(kind)
    h = model.targets(patches, kind)
    jepa, context = [], []
    for policy, mask in enumerate(group.masks):
        z = model.encoder(patches, kind, mask.visible)
        predicted, at_visible = model.predictor(z, mask.visible, mask.masked, policy)
        rows = torch.arange(len(h))[:, None]
        jepa.append(prediction_loss(predicted, h[rows, mask.masked]))
        context.append(context_loss(at_visible, h.unflatten(1, grid.shape), mask.visible, mask.masked, grid))
    return jepa, context


def test_targets_are_normalised_level_by_level() -> None:
    model = build()
    patches, kind = model.encoder.patches(videos().clip)
    h = model.targets(patches, kind)
    assert h.shape == (2, 32, 24)
    raw = model.target_encoder(patches, kind)
    for level in range(2):
        part = raw[..., level * 12 : level * 12 + 12]
        expected = (part - part.mean(-1, keepdim=True)) / (part.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(h[..., level * 12 : level * 12 + 12], expected, rtol=1e-4, atol=1e-5)


def test_targets_carry_a_gradient_only_where_asked() -> None:
    for teacher, carries in (
        ({"mode": "ema"}, False),
        ({"mode": "self"}, False),
        ({"mode": "self", "stop_gradient": False}, True),
    ):
        model = build(**teacher)
        patches, kind = model.encoder.patches(videos().clip)
        assert model.targets(patches, kind).requires_grad is carries, teacher


def test_gradient_without_stop_differs_from_the_one_with_it() -> None:
    grads = []
    for stop in (True, False):
        model = build(mode="self", stop_gradient=stop)
        out = model([videos()], {})
        out.loss.backward()
        grads.append((out.loss.item(), model.encoder.get_parameter("blocks.0.attn.qkv.weight").grad))
    assert grads[0][0] == grads[1][0]
    first, second = grads[0][1], grads[1][1]
    assert first is not None
    assert second is not None
    assert not torch.allclose(first, second)


def test_loss_is_the_mean_over_masks_then_over_groups_by_clips() -> None:
    model, groups = build(), [videos(2), images(3)]
    out: StepOutput = model(groups, {}, context_weight=0.25)
    found = [by_hand(model, g) for g in groups]
    expected = [sum(n * torch.stack(part).mean().detach() for n, part in zip((2, 3), parts, strict=True)) / 5
                for parts in zip(*found, strict=True)]  # fmt: skip
    assert out.values["jepa"].item() == pytest.approx(float(expected[0]), rel=1e-5)
    assert out.values["context"].item() == pytest.approx(float(expected[1]), rel=1e-5)
    assert out.loss.item() == pytest.approx(float(expected[0] + 0.25 * expected[1]), rel=1e-5)
    assert out.weighted["context"].item() == pytest.approx(0.25 * float(expected[1]), rel=1e-5)
    assert not out.values["jepa"].requires_grad
    assert set(out.weighted) == set(out.values) == ALL
    assert [len(z) for z in out.student] == [2, 2, 3, 3]
    assert out.target.shape == (3, 16, 24)


def test_weight_zero_is_not_computed() -> None:
    model = build([Term("delta"), Term("spectral")])
    out = model([videos()], {"delta": 0.0, "spectral": 0.0}, context_weight=0.0)
    assert set(out.values) == {"jepa"}
    assert out.loss.item() == pytest.approx(out.values["jepa"].item())
    assert set(model([videos()], {"delta": 0.5}).values) == {"jepa", "delta"}


def test_weights_scale_the_parts_of_the_loss() -> None:
    model = build([Term("delta"), Term("static_appearance", {"levels": 2})])
    out = model([videos()], {"delta": 0.5, "static_appearance": 3.0}, context_weight=0.1)
    v = {k: x.item() for k, x in out.values.items()}
    expected = v["jepa"] + 0.1 * v["context"] + 0.5 * v["delta"] + 3.0 * v["static_appearance"]
    assert v["delta"] > 0
    assert v["static_appearance"] > 0
    assert out.loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_term_without_elements_is_absent_not_zero() -> None:
    model = build([Term("delta")])
    alone = model([videos()], {"delta": 1.0}).values["delta"]
    with_images = model([videos(), images()], {"delta": 1.0}).values["delta"]
    assert with_images.item() == pytest.approx(alone.item(), rel=1e-6), "images have no pair: no share in the average"
    assert "delta" not in model([images()], {"delta": 1.0}).values
    still = videos()
    still.still = torch.tensor([True, True])
    assert "delta" not in model([still], {"delta": 1.0}).values
    half = videos()
    half.still = torch.tensor([False, True])
    kept = ClipGroup(half.clip[:1], [Mask(m.visible[:1], m.masked[:1]) for m in half.masks])
    left_out = model([half], {"delta": 1.0}).values["delta"]
    assert left_out.item() == pytest.approx(model([kept], {"delta": 1.0}).values["delta"].item(), rel=1e-5)


def test_hidden_tokens_never_reach_the_student() -> None:
    model = build([Term("static_appearance", {"levels": 2})])
    group = videos()
    for policy, mask in enumerate(group.masks):
        hidden = torch.ones(2, 32, dtype=torch.bool).scatter(1, mask.visible, False)
        pixels = hidden.view(2, 2, 4, 4).repeat_interleave(2, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
        noise = torch.where(pixels[:, None], torch.randn_like(group.clip), 0.0)
        assert noise.abs().sum() > 0
        changed = ClipGroup(group.clip + noise, group.masks)
        before, after = (model([g], {"static_appearance": 1.0}) for g in (group, changed))
        torch.testing.assert_close(after.student[policy], before.student[policy], rtol=0, atol=0)
        # The target sees the whole clip.
        assert not torch.allclose(after.values["jepa"], before.values["jepa"])


def test_a_detached_term_counts_in_the_loss_and_trains_nothing() -> None:
    attached, detached = (build([Term("latent_dynamics", {"levels": 2}, detached=d)]) for d in (False, True))
    outs = [m([videos()], {"latent_dynamics": 1.0}) for m in (attached, detached)]
    assert outs[0].loss.item() == outs[1].loss.item()
    for out in outs:
        out.loss.backward()
    plain = build()
    plain.load_state_dict({k: v for k, v in detached.state_dict().items() if not k.startswith("objectives.")})
    plain([videos()], {}).loss.backward()
    for name, p in plain.encoder.named_parameters():
        other = detached.encoder.get_parameter(name).grad
        assert (p.grad is None) == (other is None), name
        if p.grad is not None and other is not None:
            torch.testing.assert_close(other, p.grad, rtol=0, atol=0)
    assert all(p.grad is None for p in detached.objectives.parameters())
    head = [p.grad for p in attached.objectives.parameters()]
    assert all(g is not None and g.abs().sum() > 0 for g in head)


def test_moving_average_follows_the_formula() -> None:
    model = build(momentum=0.9)
    before = {k: v.clone() for k, v in model.target_encoder.state_dict().items()}
    with torch.no_grad():
        for p in model.encoder.parameters():
            p.add_(torch.randn_like(p))
    model.update_target()
    for name, value in model.target_encoder.state_dict().items():
        expected = 0.9 * before[name] + 0.1 * model.encoder.state_dict()[name]
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
        assert not torch.equal(value, before[name]), name


def test_teacher_self_moves_no_average() -> None:
    model = build(mode="self", momentum=0.9)
    before = [p.clone() for p in model.target_encoder.parameters()]
    with torch.no_grad():
        for p in model.encoder.parameters():
            p.add_(1.0)
    model.update_target()
    assert all(torch.equal(a, b) for a, b in zip(before, model.target_encoder.parameters(), strict=True))


def test_target_starts_equal_and_is_never_trained() -> None:
    torch.manual_seed(0)
    model = VideoJEPA(config())
    pairs = zip(model.encoder.parameters(), model.target_encoder.parameters(), strict=True)
    assert all(torch.equal(a, b) and a.data_ptr() != b.data_ptr() for a, b in pairs)
    assert not any(p.requires_grad for p in model.target_encoder.parameters())
    model([videos()], {}).loss.backward()
    assert all(p.grad is None for p in model.target_encoder.parameters())


def test_every_trained_parameter_gets_a_gradient() -> None:
    model = build([Term("action")])
    model([videos(), images()], {"action": 1.0}, context_weight=0.5).loss.backward()
    missing = [
        n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or p.grad.abs().sum() == 0)
    ]
    assert missing == []


def test_a_few_steps_lower_the_loss() -> None:
    model = build()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    seen: list[float] = []
    for _ in range(25):
        out = model([videos()], {}, context_weight=0.1)
        out.loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        seen.append(out.loss.item())
    assert seen[-1] < 0.9 * seen[0]


def test_mistakes_are_named() -> None:
    model = build([Term("delta")])
    with pytest.raises(ValueError, match="spectral"):
        model([videos()], {"spectral": 1.0})
    with pytest.raises(ValueError, match="clip"):
        model([], {})
    with pytest.raises(ValueError, match="frames is 5; expected a multiple of the tubelet length 2"):
        JepaConfig(frames=5)
    with pytest.raises(ValueError, match="size is 100 px; expected a multiple of the patch side 16"):
        JepaConfig(size=100)
    with pytest.raises(ValueError, match="no effect with mode ema"):
        TeacherConfig(mode="ema", stop_gradient=False)
    with pytest.raises(ValueError, match=r"momentum is 1\.0; expected 0 <= momentum < 1"):
        TeacherConfig(momentum=1.0)


def test_modules_are_the_documented_ones() -> None:
    model = build([Term("delta")])
    assert isinstance(model.objectives, nn.ModuleDict)
    assert model.config.grid("video").shape == (2, 4, 4)
    assert model.config.grid("image").shape == (1, 4, 4)
    assert model.config.grid("image").tubelet == 1


def test_a_stand_in_goes_through_the_model_and_counts_nothing() -> None:
    model = build([Term("delta")])
    weights = {"delta": 0.5}
    alone = model([images()], weights, 0.5)
    stand_in = videos()
    stand_in.counts = False
    both = model([stand_in, images()], weights, 0.5)
    assert torch.equal(both.loss, alone.loss)
    assert set(both.weighted) == set(alone.weighted)  # delta has elements in the stand-in only
    assert len(both.student) == len(alone.student) + len(stand_in.masks)
    both.loss.backward()
    found = [p.grad.clone() if p.grad is not None else None for p in model.parameters()]
    model.zero_grad()
    model([images()], weights, 0.5).loss.backward()
    for before, parameter in zip(found, model.parameters(), strict=True):
        if parameter.grad is not None:
            assert before is not None
            assert torch.allclose(before, parameter.grad)
