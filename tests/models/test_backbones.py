"""Image transformers of timm and torchvision as encoders, and what every encoder promises."""

from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.models.vision_transformer import resample_abs_pos_embed
from torch import nn

from equipoise.models.encoders import Encoder, EncoderConfig, EncoderRecord, create_encoder, register_encoder
from equipoise.models.encoders.backbones import ImageBackbone
from equipoise.models.geometry import TokenGrid
from equipoise.testing import check_encoder

SMALL = {"width": 24, "depth": 4, "heads": 2, "patch": 4, "tubelet": 2, "levels": 2, "rope_theta": 20.0}
TIMM = [
    "vit_tiny_patch16_224",
    "vit_small_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",
    "vit_xsmall_patch16_clip_224",
]


def backbone(name: str, model: str, side: int, levels: int = 2) -> ImageBackbone:
    config = EncoderConfig(name=name, params={"model": model}, levels=levels)
    torch.manual_seed(3)
    encoder = create_encoder(config, TokenGrid(2, side, side, patch=config.patch, tubelet=config.tubelet)).eval()
    assert isinstance(encoder, ImageBackbone)
    return encoder


def shaken(model: nn.Module) -> nn.Module:
    """With every parameter moved: none is what a network starts with."""
    torch.manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model.eval()


@pytest.mark.parametrize(
    "config",
    [
        EncoderConfig(**SMALL),  # type: ignore[arg-type]
        EncoderConfig(**SMALL, rope_frequencies="tiled", rope_side=5),  # type: ignore[arg-type]
        *(EncoderConfig(name="timm", params={"model": name}, levels=2) for name in TIMM),
        EncoderConfig(name="torchvision", params={"model": "vit_b_32"}, levels=2),
    ],
    ids=lambda config: config.params.get("model", config.rope_frequencies),
)
def test_every_encoder_keeps_the_contract(config: EncoderConfig) -> None:
    check_encoder(config)


@torch.no_grad()
@pytest.mark.parametrize("model", TIMM)
def test_an_image_has_the_features_that_timm_gives_it(model: str) -> None:
    # At another size than the checkpoint's: its positions are resampled as timm resamples them.
    source: Any = shaken(timm.create_model(model, img_size=224 if "16" in model else 140, num_classes=7))
    encoder = backbone("timm", model, side=3)
    assert set(encoder.load(source.state_dict())) == {"head.weight", "head.bias"}
    side, patch = 3, encoder.config.patch
    image = torch.randn(2, 3, 1, side * patch, side * patch)
    resized: Any = timm.create_model(model, img_size=side * patch, num_classes=7).eval()
    state = source.state_dict()
    prefix = 0 if source.no_embed_class else source.num_prefix_tokens
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], [side, side], num_prefix_tokens=prefix)
    resized.load_state_dict(state)
    expected = resized.forward_features(image[:, :, 0])[:, resized.num_prefix_tokens :]
    patches, kind = encoder.patches(image)
    torch.testing.assert_close(encoder(patches, kind, last_only=True), expected, rtol=1e-4, atol=1e-4)
    # A clip of equal frames has the image's tokens; time adds what is learnt about it.
    still = image.expand(-1, -1, encoder.config.tubelet * 2, -1, -1)
    embedded = encoder.video_embed(encoder.patches(still)[0])
    for slot in range(2):
        torch.testing.assert_close(
            embedded[:, slot * side**2 : (slot + 1) * side**2],
            nn.functional.linear(patches, encoder.conv().weight.flatten(1), encoder.conv().bias),
            rtol=1e-4,
            atol=1e-4,
        )


@torch.no_grad()
def test_an_image_has_the_features_that_torchvision_gives_it() -> None:
    source: Any = shaken(torchvision.models.vit_b_32(image_size=96))
    encoder = backbone("torchvision", "vit_b_32", side=3)
    encoder.load(source.state_dict())
    image = torch.randn(2, 3, 1, 96, 96)
    tokens = torch.cat([source.class_token.expand(2, -1, -1), source._process_input(image[:, :, 0])], dim=1)
    expected = source.encoder(tokens)[:, 1:]
    patches, kind = encoder.patches(image)
    torch.testing.assert_close(encoder(patches, kind, last_only=True), expected, rtol=1e-4, atol=1e-4)


def test_sizes_are_the_networks_own() -> None:
    config = EncoderConfig(name="timm", params={"model": "vit_small_patch14_dinov2"})
    assert (config.width, config.depth, config.heads, config.patch) == (384, 12, 6, 14)
    assert EncoderConfig(name="timm", params={"model": "vit_small_patch14_dinov2"}, width=384) == config
    with pytest.raises(ValueError, match=r"encoder width is 96; timm with .*dinov2.* has 384: write width: 384"):
        EncoderConfig(name="timm", params={"model": "vit_small_patch14_dinov2"}, width=96)


@pytest.mark.parametrize(
    ("name", "model", "change"),
    [
        ("timm", "vit_tiny_patch16_224", {"rope_side": 16}),
        ("timm", "vit_tiny_patch16_224", {"rope_frequencies": "tiled"}),
        ("torchvision", "vit_b_32", {"drop_path": 0.1}),
    ],
)
def test_what_cannot_take_effect_is_refused(name: str, model: str, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"encoder {next(iter(change))} is "):
        EncoderConfig(name=name, params={"model": model}, **change)


@pytest.mark.parametrize(
    ("name", "params", "sentence"),
    [
        ("timm", {"model": "resnet18"}, "timm's resnet18 cannot hide tokens"),
        ("timm", {"model": "swin_tiny_patch4_window7_224"}, "cannot hide tokens"),
        ("timm", {"model": "vit_huge_patch3"}, "timm has no model 'vit_huge_patch3'"),
        ("timm", {}, r"params are \{\}; expected the name of a model: \{model: vit_small_patch16_224\}"),
        ("torchvision", {"model": "mvit_v2_s"}, "torchvision's mvit_v2_s cannot hide tokens"),
        ("torchvision", {"model": "r3d_18"}, "cannot hide tokens"),
        ("torchvision", {"model": "vit_x"}, "torchvision has no model 'vit_x'"),
        ("vit", {"model": "x"}, "takes no params"),
        ("vitt", {}, "unknown encoder 'vitt'; nearest is 'vit', known are vit, timm, torchvision"),
    ],
)
def test_what_cannot_be_an_encoder_is_a_sentence(name: str, params: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as raised:
        EncoderConfig(name=name, params=params)
    assert "\n" not in str(raised.value)


class _Cheat(Encoder):
    """Encodes all tokens, and then leaves the hidden ones out."""

    def __init__(self, config: EncoderConfig, grid: TokenGrid, pools: bool = False) -> None:
        super().__init__(config, grid)
        self.pools = pools
        area = 3 * config.patch**2
        self.embed = nn.ModuleDict({"video": nn.Linear(2 * area, config.width), "image": nn.Linear(area, config.width)})
        self.blocks = nn.ModuleList([nn.Identity()])

    def forward(self, patches: Any, kind: Any, index: Any = None, last_only: bool = False) -> Any:
        x = self.embed[kind](patches)
        x = x + x.mean(1, keepdim=True) if self.pools else x
        return x if index is None else x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def test_the_contract_notices_an_encoder_that_reads_hidden_patches() -> None:
    register_encoder(EncoderRecord("cheat", "for this test", _Cheat, lambda params: {}))
    config = {"name": "cheat", "width": 6, "depth": 1, "heads": 1, "patch": 4, "levels": 1}
    check_encoder(EncoderConfig(**config))  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="cheat reads patches of a video that are hidden"):
        check_encoder(EncoderConfig(**config, params={"pools": True}))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'vit' ships with Equipoise: give yours another name"):
        register_encoder(EncoderRecord("vit", "another", _Cheat))
