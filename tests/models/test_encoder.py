from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from equipoise.models.encoders import EncoderConfig, VideoEncoder, patchify
from equipoise.models.geometry import TokenGrid

GRID = TokenGrid(3, 4, 5, patch=4, tubelet=2)
CONFIG = EncoderConfig(width=24, depth=4, heads=2, patch=4, tubelet=2, levels=2, rope_theta=20.0)


def build(config: EncoderConfig = CONFIG, grid: TokenGrid = GRID) -> VideoEncoder:
    torch.manual_seed(0)
    encoder = VideoEncoder(config, grid).eval()
    with torch.no_grad():
        # Away from the special values of initialisation: biases, norms and modality embeddings all count.
        for p in encoder.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return encoder


def clips(batch: int = 2, frames: int = 6) -> Tensor:
    return torch.randn(batch, 3, frames, 16, 20, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("kind", "frames", "tubelet"), [("video", 6, 2), ("image", 1, 1)])
def test_patch_embedding_equals_a_strided_convolution(kind: str, frames: int, tubelet: int) -> None:
    linear = build().embed[kind]
    assert isinstance(linear, nn.Linear)
    x = clips(frames=frames)
    convolution = nn.Conv3d(3, 24, kernel_size=(tubelet, 4, 4), stride=(tubelet, 4, 4))
    with torch.no_grad():
        convolution.weight.copy_(linear.weight.view_as(convolution.weight))
        convolution.bias.copy_(linear.bias)  # type: ignore[union-attr]
        expected = convolution(x).flatten(2).transpose(1, 2)
        torch.testing.assert_close(linear(patchify(x, 4, tubelet)), expected, rtol=1e-5, atol=1e-5)


def test_patches_say_what_a_clip_is() -> None:
    encoder = build()
    patches, kind = encoder.patches(clips())
    assert (kind, patches.shape) == ("video", (2, 60, 3 * 2 * 16))
    patches, kind = encoder.patches(clips(frames=1))
    assert (kind, patches.shape) == ("image", (2, 20, 3 * 16))


@torch.no_grad()
def test_features_are_the_levels_and_the_last_one_alone() -> None:
    encoder = build()
    patches, kind = encoder.patches(clips())
    features = encoder(patches, kind)
    assert features.shape == (2, 60, CONFIG.channels) == (2, 60, 48)
    torch.testing.assert_close(features[..., 24:], encoder(patches, kind, last_only=True), rtol=0, atol=0)
    # Level 0 is the state after half of the blocks: it does not know of the blocks above, nor of their norm.
    for p in [*encoder.blocks[2:].parameters(), *encoder.norms[1].parameters()]:
        p.add_(1.0)
    after = encoder(patches, kind)
    torch.testing.assert_close(after[..., :24], features[..., :24], rtol=0, atol=0)
    assert not torch.allclose(after[..., 24:], features[..., 24:])
    for p in encoder.blocks[1].parameters():
        p.add_(1.0)
    assert not torch.allclose(encoder(patches, kind)[..., :24], features[..., :24])


@torch.no_grad()
def test_order_of_the_index_permutes_the_tokens() -> None:
    encoder = build()
    patches, kind = encoder.patches(clips())
    index = torch.stack([torch.randperm(60, generator=torch.Generator().manual_seed(s))[:17] for s in (0, 1)])
    order = torch.randperm(17, generator=torch.Generator().manual_seed(2))
    out = encoder(patches, kind, index)
    assert out.shape == (2, 17, 48)
    torch.testing.assert_close(encoder(patches, kind, index[:, order]), out[:, order], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_every_token_by_index_equals_no_index() -> None:
    encoder = build()
    patches, kind = encoder.patches(clips())
    index = torch.arange(60).expand(2, -1)
    torch.testing.assert_close(encoder(patches, kind, index), encoder(patches, kind), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_subset_never_reads_hidden_patches() -> None:
    encoder = build()
    patches, kind = encoder.patches(clips())
    index = torch.tensor([[0, 7, 33, 59], [1, 2, 20, 41]])
    out = encoder(patches, kind, index)
    other = torch.full_like(patches, torch.nan)
    at = index.unsqueeze(-1).expand(-1, -1, patches.shape[-1])
    torch.testing.assert_close(encoder(other.scatter(1, at, patches.gather(1, at)), kind, index), out, rtol=0, atol=0)
    assert not torch.allclose(encoder(patches, kind)[0, 0], out[0, 0]), "the other tokens count where they are seen"


@torch.no_grad()
def test_moving_all_tokens_together_changes_nothing() -> None:
    encoder = build()
    values = torch.randn(1, 3, 3 * 2 * 16, generator=torch.Generator().manual_seed(3))

    def encode(places: list[tuple[int, int, int]]) -> Tensor:
        index = torch.tensor([[t * 20 + y * 5 + x for t, y, x in places]])
        patches = torch.zeros(1, 60, values.shape[-1])
        patches[0, index[0]] = values[0]
        return encoder(patches, "video", index)  # type: ignore[no-any-return]

    here = encode([(0, 0, 0), (1, 2, 1), (0, 1, 3)])
    torch.testing.assert_close(encode([(1, 1, 1), (2, 3, 2), (1, 2, 4)]), here, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(encode([(1, 1, 1), (2, 3, 2), (2, 2, 4)]), here, atol=1e-3)


@torch.no_grad()
def test_an_image_has_its_own_embedding_and_modality() -> None:
    encoder = build()
    patches, kind = encoder.patches(clips(frames=1))
    out = encoder(patches, kind)
    assert out.shape == (2, 20, 48)
    for name in ("embed.video.weight", "embed.video.bias", "modality.video"):
        encoder.get_parameter(name).add_(1.0)
    torch.testing.assert_close(encoder(patches, kind), out, rtol=0, atol=0)
    for name in ("embed.image.weight", "embed.image.bias", "modality.image"):
        # Not a constant: the first LayerNorm takes those out again.
        encoder.get_parameter(name).add_(torch.randn_like(encoder.get_parameter(name)))
        changed = encoder(patches, kind)
        assert not torch.allclose(changed, out), name
        out = changed


def test_a_clip_of_another_size_is_refused_in_words() -> None:
    encoder = build()
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 16, 20\) gives 40 tokens; this encoder takes 6 frames.*16x20 px"):
        encoder.patches(torch.zeros(1, 3, 4, 16, 20))
    with pytest.raises(ValueError, match="5 frames of 16x20 px does not divide into patches of 2x4x4"):
        encoder.patches(torch.zeros(1, 3, 5, 16, 20))
    with pytest.raises(ValueError, match="6 frames of 16x18 px does not divide"):
        encoder.patches(torch.zeros(1, 3, 6, 16, 18))
    with pytest.raises(ValueError, match=r"image of shape \(1, 3, 1, 16, 16\) gives 16 tokens"):
        encoder.patches(torch.zeros(1, 3, 1, 16, 16))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"width": 25}, "width 25 is not a multiple of heads 2"),
        ({"depth": 5}, "depth 5 is not a multiple of levels 2"),
        ({"heads": 0}, "heads is 0; expected at least 1"),
        ({"drop_path": 1.0}, "drop_path is 1.0; expected 0 <= drop_path < 1"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        EncoderConfig(**{"width": 24, "depth": 4, "heads": 2, "levels": 2, **change})  # type: ignore[arg-type]
