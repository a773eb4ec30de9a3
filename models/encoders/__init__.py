"""Encoders by name: video transformers, image transformers of timm and torchvision, and those brought along."""

from equipoise.models.encoders.backbones import TIMM, TORCHVISION
from equipoise.models.encoders.base import (
    ENCODERS,
    Encoder,
    EncoderConfig,
    EncoderRecord,
    Kind,
    create_encoder,
    list_encoders,
    patchify,
    register_encoder,
)
from equipoise.models.encoders.vit import VideoEncoder

register_encoder(EncoderRecord("vit", "video transformer with rotary positions, as V-JEPA 2 and 2.1", VideoEncoder))
register_encoder(TIMM)
register_encoder(TORCHVISION)

__all__ = [
    "ENCODERS",
    "Encoder",
    "EncoderConfig",
    "EncoderRecord",
    "Kind",
    "VideoEncoder",
    "create_encoder",
    "list_encoders",
    "patchify",
    "register_encoder",
]
