"""Names of a vision transformer's parameters: timm's, which V-JEPA has too, and those of `transformers`."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from equipoise.models.errors import ModelError

NO_COUNTERPART = ("head.", "fc_norm.", "head_dist.", "pooler.", "classifier.", "predictor.", "embeddings.mask_token")
"""Parts of other people's models that are no part of an encoder."""
_HUGGING_FACE = (  # names of `transformers`, old and new, and timm's
    (r"^(vit|deit|dinov2|vjepa2)\.", ""),
    (r"^(encoder\.)?layers?\.(\d+)\.", r"blocks.\2."),
    (r"^(encoder\.)?embeddings\.patch_embeddings\.(projection|proj)\.", "patch_embed.proj."),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^(encoder\.)?layernorm\.", "norm."),
    (r"\.(layernorm_before|norm1)\.", ".norm1."),
    (r"\.(layernorm_after|norm2)\.", ".norm2."),
    (r"\.attention\.(attention\.)?(query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(attention\.)?(key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(attention\.)?(value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(output\.dense|o_proj|proj)\.", ".attn.proj."),
    (r"\.(intermediate\.dense|mlp\.fc1)\.", ".mlp.fc1."),
    (r"(?<!attention)\.(output\.dense|mlp\.fc2)\.", ".mlp.fc2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
)


def timm_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A vision transformer's state in timm's names, which V-JEPA's are too, whether it had those or transformers'."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if not key.startswith(NO_COUNTERPART):
            for pattern, name in _HUGGING_FACE:
                key = re.sub(pattern, name, key)
        found[key] = value
    for key in [k for k in found if ".attn.q." in k]:
        try:
            parts = [found.pop(key.replace(".attn.q.", f".attn.{part}.")) for part in "qkv"]
        except KeyError as missing:
            raise ModelError(f"{missing.args[0]} is missing beside {key}") from None
        found[key.replace(".attn.q.", ".attn.qkv.")] = torch.cat(parts)
    return found
