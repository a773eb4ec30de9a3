"""Parameters of other people's encoders: the same features as their own code gives, and every entry accounted for."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel, VJEPA2Config, VJEPA2Model

from equipoise.models.encoders import EncoderConfig, VideoEncoder, create_encoder
from equipoise.models.encoders.backbones import ImageBackbone
from equipoise.models.encoders.loading import inflate, take_parameters
from equipoise.models.geometry import TokenGrid

GRID = TokenGrid(2, 4, 4, patch=8, tubelet=2)
SIZES: dict[str, Any] = {"width": 48, "depth": 4, "heads": 2, "patch": 8, "tubelet": 2, "levels": 2}
State = dict[str, Tensor]


def shaken(model: nn.Module) -> nn.Module:
    """With every parameter moved: none is what a network starts with."""
    torch.manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.eval()


def build(grid: TokenGrid = GRID, **changes: Any) -> VideoEncoder:
    encoder = create_encoder(EncoderConfig(**{**SIZES, **changes}), grid)
    assert isinstance(encoder, VideoEncoder)
    return encoder.eval()


def clips(frames: int = 4, side: int = 32) -> Tensor:
    return torch.randn(2, 3, frames, side, side, generator=torch.Generator().manual_seed(1))


def hugging_face() -> VJEPA2Model:
    config = VJEPA2Config(
        hidden_size=48, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=4, crop_size=32, patch_size=8,
        frames_per_clip=4, pred_hidden_size=24, pred_num_hidden_layers=1, pred_num_attention_heads=2,
    )  # fmt: skip
    found = shaken(VJEPA2Model(config))
    assert isinstance(found, VJEPA2Model)
    return found


def original_names(state: Mapping[str, Tensor]) -> State:
    """V-JEPA 2's encoder as its own code spells it: attention's three maps as one."""
    found: State = {}
    for key, value in state.items():
        if not key.startswith("encoder."):
            continue
        name = key.removeprefix("encoder.").replace("layer.", "blocks.").replace("layernorm.", "norm.")
        name = name.replace("embeddings.patch_embeddings.", "patch_embed.").replace(".attention.", ".attn.")
        found[name] = value
    for key in [k for k in found if ".attn.query." in k]:
        parts = [found.pop(key.replace("query", part)) for part in ("query", "key", "value")]
        found[key.replace("query", "qkv")] = torch.cat(parts)
    return found


@torch.no_grad()
@pytest.mark.parametrize("spelling", ["transformers", "original"])
def test_vjepa_2_has_the_features_that_transformers_gives_it(spelling: str) -> None:
    source = hugging_face()
    state = source.state_dict()
    encoder = build(rope_frequencies="tiled")
    left = take_parameters(encoder, state if spelling == "transformers" else original_names(state))
    assert all(name.startswith("predictor.") for name in left)
    assert bool(left) == (spelling == "transformers")
    clip = clips()
    patches, kind = encoder.patches(clip)
    expected = source.get_vision_features(clip.transpose(1, 2))
    torch.testing.assert_close(encoder(patches, kind, last_only=True), expected, rtol=1e-4, atol=1e-4)
    # The visible tokens alone, with their own positions.
    index = torch.stack([torch.randperm(GRID.count)[:9] for _ in clip])
    hidden = source.encoder.embeddings(clip.transpose(1, 2)).gather(1, index.unsqueeze(-1).expand(-1, -1, 48))
    for layer in source.encoder.layer:
        hidden = layer(hidden, index)[0]
    expected = source.encoder.layernorm(hidden)
    torch.testing.assert_close(encoder(patches, kind, index, last_only=True), expected, rtol=1e-4, atol=1e-4)
    # An image is to V-JEPA 2 a clip of equal frames of one slot.
    image = clips(frames=1)
    one_slot = build(TokenGrid(1, 4, 4, patch=8, tubelet=2), rope_frequencies="tiled")
    take_parameters(one_slot, state)
    repeated = one_slot(*one_slot.patches(image.expand(-1, -1, 2, -1, -1)))
    torch.testing.assert_close(one_slot(*one_slot.patches(image)), repeated, rtol=1e-4, atol=1e-4)


def vjepa_2_1(kind: str, clip: Tensor, state: State, levels: tuple[int, ...], heads: int, side: int) -> Tensor:
    """V-JEPA 2.1's forward pass in its slowest form: one head and one pair of channels at a time."""
    conv, name = ("patch_embed_img", "img") if kind == "image" else ("patch_embed", "video")
    x = F.conv3d(
        clip, state[f"{conv}.proj.weight"], state[f"{conv}.proj.bias"], stride=state[f"{conv}.proj.weight"].shape[2:]
    )
    T, H, W = x.shape[2:]
    x = x.flatten(2).transpose(1, 2) + state[f"{name}_mod_embed"]
    t, rest = torch.arange(T * H * W) // (H * W), torch.arange(T * H * W) % (H * W)
    places = (t.double(), (rest // W) * (side - 1) / (H - 1), (rest % W) * (side - 1) / (W - 1))
    head = x.shape[-1] // heads
    axis = 2 * (head // 3 // 2)  # channels of an axis

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)

    def turned(x: Tensor) -> Tensor:
        x = x.clone()
        for a, place in enumerate(places):
            for pair in range(axis // 2):
                angle = (place * 10_000 ** (-pair / (axis / 2))).float()
                i = a * axis + 2 * pair
                one, two = x[..., i].clone(), x[..., i + 1].clone()
                x[..., i], x[..., i + 1] = one * angle.cos() - two * angle.sin(), two * angle.cos() + one * angle.sin()
        return x

    outputs: list[Tensor] = []
    for i in range(len({k.split(".")[1] for k in state if k.startswith("blocks.")})):
        b = f"blocks.{i}"
        qkv = F.linear(norm(x, f"{b}.norm1"), state[f"{b}.attn.qkv.weight"], state[f"{b}.attn.qkv.bias"])
        q, k, v = (part.unflatten(-1, (heads, head)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        weights = (turned(q) @ turned(k).transpose(2, 3) / head**0.5).softmax(-1)
        mixed = (weights @ v).transpose(1, 2).flatten(2)
        x = x + F.linear(mixed, state[f"{b}.attn.proj.weight"], state[f"{b}.attn.proj.bias"])
        inner = F.gelu(F.linear(norm(x, f"{b}.norm2"), state[f"{b}.mlp.fc1.weight"], state[f"{b}.mlp.fc1.bias"]))
        x = x + F.linear(inner, state[f"{b}.mlp.fc2.weight"], state[f"{b}.mlp.fc2.bias"])
        if i in levels:
            outputs.append(norm(x, f"norms_block.{levels.index(i)}"))
    return torch.cat(outputs, dim=-1)


def state_2_1(patch: int = 8) -> State:
    """A random state of V-JEPA 2.1's names and shapes, of two levels."""
    g = torch.Generator().manual_seed(3)
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (48, 3, 2, patch, patch),
        "patch_embed.proj.bias": (48,),
        "patch_embed_img.proj.weight": (48, 3, 1, patch, patch),
        "patch_embed_img.proj.bias": (48,),
        "img_mod_embed": (1, 1, 48),
        "video_mod_embed": (1, 1, 48),
    }
    for i in range(4):
        for part, shape in {
            "attn.qkv": (144, 48),
            "attn.proj": (48, 48),
            "mlp.fc1": (192, 48),
            "mlp.fc2": (48, 192),
        }.items():
            shapes |= {f"blocks.{i}.{part}.weight": shape, f"blocks.{i}.{part}.bias": shape[:1]}
        for part in ("norm1", "norm2"):
            shapes |= {f"blocks.{i}.{part}.{end}": (48,) for end in ("weight", "bias")}
    shapes |= {f"norms_block.{i}.{end}": (48,) for i in range(2) for end in ("weight", "bias")}
    return {k: torch.randn(shape, generator=g) * 0.3 for k, shape in shapes.items()}


@torch.no_grad()
@pytest.mark.parametrize("kind", ["video", "image"])
def test_vjepa_2_1_has_the_features_of_its_formula(kind: str) -> None:
    # Its own grid of 256 px has 32 patches of 8 px a side; the clip has four, which are stretched over that.
    state = state_2_1()
    encoder = build(rope_side=32)
    assert take_parameters(encoder, state) == ()
    clip = clips(frames=4 if kind == "video" else 1)
    patches, found = encoder.patches(clip)
    assert found == kind
    expected = vjepa_2_1(kind, clip, state, levels=(1, 3), heads=2, side=32)
    torch.testing.assert_close(encoder(patches, found), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    ("model", "config"),
    [(ViTModel, ViTConfig), (Dinov2Model, Dinov2Config)],
    ids=["vit", "dinov2"],
)
def test_a_vit_of_transformers_has_its_features_in_timms(model: Any, config: Any) -> None:
    name, patch = ("vit_tiny_patch16_224", 16) if model is ViTModel else ("vit_small_patch14_dinov2", 14)
    encoder = create_encoder(
        EncoderConfig(name="timm", params={"model": name}), TokenGrid(1, 3, 3, patch=patch, tubelet=2)
    ).eval()
    assert isinstance(encoder, ImageBackbone)
    c = encoder.config
    sizes = {"hidden_size": c.width, "num_attention_heads": c.heads, "image_size": 3 * patch, "patch_size": patch}
    sizes |= {"intermediate_size": 4 * c.width} if model is ViTModel else {}
    source = shaken(model(config(**sizes, num_hidden_layers=12, layer_norm_eps=1e-6)))
    left = take_parameters(encoder, source.state_dict())
    assert {key.split(".")[0] for key in left} <= {"pooler", "embeddings"}
    image = clips(frames=1, side=3 * patch)
    patches, kind = encoder.patches(image)
    expected = source(image[:, :, 0]).last_hidden_state[:, 1:]
    torch.testing.assert_close(encoder(patches, kind, last_only=True), expected, rtol=1e-4, atol=1e-4)


def test_an_older_spelling_of_transformers_is_the_same_vit() -> None:
    source = shaken(ViTModel(ViTConfig(
        hidden_size=48, num_hidden_layers=4, num_attention_heads=2, image_size=32, patch_size=8, intermediate_size=192,
    )))  # fmt: skip
    new = source.state_dict()
    renames = {
        ".attention.q_proj.": ".attention.attention.query.", ".attention.k_proj.": ".attention.attention.key.",
        ".attention.v_proj.": ".attention.attention.value.", ".attention.o_proj.": ".attention.output.dense.",
        ".mlp.fc1.": ".intermediate.dense.", ".mlp.fc2.": ".output.dense.",
    }  # fmt: skip
    old: State = {}
    for key, value in new.items():
        for now, before in renames.items():
            key = key.replace(now, before)
        old["vit." + (f"encoder.layer.{key.removeprefix('layers.')}" if key.startswith("layers.") else key)] = value
    assert "vit.encoder.layer.3.output.dense.weight" in old
    one, other = build(), build()
    assert set(take_parameters(one, new)) == {"cls_token", "pos_embed", "pooler.dense.weight", "pooler.dense.bias"}
    take_parameters(other, {k: v for k, v in old.items() if "pooler" not in k})
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def vit(**options: object) -> nn.Module:
    torch.manual_seed(5)
    model: nn.Module = timm.create_model("vit_tiny_patch16_224", pretrained=False, depth=2, **options).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


def tiny(time: int = 2, side: int = 2, **change: int) -> VideoEncoder:
    sizes: dict[str, Any] = {"width": 192, "depth": 2, "heads": 3, "patch": 16, "tubelet": 2, "levels": 2, **change}
    return VideoEncoder(EncoderConfig(**sizes), TokenGrid(time, side, side, patch=16, tubelet=sizes["tubelet"])).eval()


@torch.no_grad()
@pytest.mark.parametrize("tubelet", [2, 4])
def test_inflated_still_clip_gives_the_tokens_of_the_image(tubelet: int) -> None:
    encoder = tiny(tubelet=tubelet)
    source = vit(img_size=32)
    unused = inflate(encoder, source.state_dict())
    assert sorted(unused) == ["cls_token", "head.bias", "head.weight", "pos_embed"]
    image = torch.randn(2, 3, 1, 32, 32)
    still = image.expand(-1, -1, 2 * tubelet, -1, -1)
    (image_patches, _), (still_patches, _) = encoder.patches(image), encoder.patches(still)
    embedded = encoder.embed["video"](still_patches)
    expected = source.patch_embed(image[:, :, 0])  # type: ignore[operator]
    torch.testing.assert_close(encoder.embed["image"](image_patches), expected, rtol=1e-4, atol=1e-5)
    for slot in range(2):
        torch.testing.assert_close(embedded[:, slot * 4 : slot * 4 + 4], expected, rtol=1e-4, atol=1e-5)
    # With one slot the whole encoder agrees, not the embedding alone.
    one = tiny(time=1, tubelet=tubelet)
    inflate(one, source.state_dict())
    (image_patches, _), (still_patches, kind) = one.patches(image), one.patches(still[:, :, :tubelet])
    assert kind == "video"
    torch.testing.assert_close(one(still_patches, "video"), one(image_patches, "image"), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_inflated_blocks_compute_what_the_vit_computes() -> None:
    # A single token: attention has nothing to choose, so rotary positions cannot differ from the ViT's.
    source = vit(img_size=16, class_token=False, global_pool="", pos_embed="none")
    encoder = tiny(side=1)
    inflate(encoder, source.state_dict())
    image = torch.randn(3, 3, 1, 16, 16)
    patches, kind = encoder.patches(image)
    expected = source.forward_features(image[:, :, 0])  # type: ignore[operator]
    torch.testing.assert_close(encoder(patches, kind, last_only=True), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "sizes", "sentence"),
    [
        ({}, {"width": 96}, r"patch embedding is \(192, 3, 16, 16\); expected \(96, 3, 16, 16\)"),
        ({}, {"depth": 4}, r"with 2 blocks, and the encoder has 4: 24 entries have no counterpart, such as blocks\.2"),
        ({"blocks.1.mlp.fc1.weight": torch.zeros(7, 192)}, {}, r"fc1\.weight is \(7, 192\); expected \(768, 192\)"),
        ({"neck.weight": torch.zeros(1)}, {}, r"1 of its entries have no counterpart: neck\.weight"),
        ({"patch_embed.proj.weight": None}, {}, "it has no patch embedding that is known, and 31 entries such as"),
        (
            {"patch_embed.proj.weight": torch.zeros(192, 3, 2, 16, 16)},
            {},
            "it is V-JEPA 2, .* write rope_frequencies: tiled",
        ),
        ({"norms.0.weight": torch.zeros(192)}, {}, "it is of another vit encoder: "),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(
    change: dict[str, Tensor | None], sizes: dict[str, int], sentence: str
) -> None:
    state = {k: v for k, v in {**vit(img_size=32).state_dict(), **change}.items() if v is not None}
    with pytest.raises(ValueError, match=sentence) as raised:
        take_parameters(tiny(**sizes), state)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("state", "sizes", "sentence"),
    [
        (lambda: state_2_1(), {"rope_side": 16}, "V-JEPA 2.1, .* write rope_side: 32 in the preset's model.encoder"),
        (lambda: state_2_1(), {"rope_frequencies": "tiled"}, "V-JEPA 2.1, .* write rope_frequencies: paired"),
        (lambda: state_2_1(), {"rope_side": 32, "levels": 4}, r"norms_block\.2\.weight is missing; the encoder has 4"),
        (lambda: state_2_1(patch=16), {"rope_side": 32}, r"is \(48, 3, 2, 16, 16\); expected \(48, 3, 2, 8, 8\)"),
        (
            lambda: {k: v for k, v in hugging_face().state_dict().items() if "layer.1.attention.key.bias" not in k},
            {"rope_frequencies": "tiled"},
            "k.bias is missing beside blocks.1.attn.q.bias",
        ),
    ],
)
def test_a_vjepa_that_does_not_fit_says_what_to_write(
    state: Callable[[], State], sizes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        take_parameters(build(**sizes), state())
