"""The two losses of Video-JEPA itself: prediction at masked tokens, and the context loss at visible ones.

Shapes: B clips, K visible tokens, M masked tokens, D channels, T H W the token grid.
"""

from __future__ import annotations

from torch import Tensor

from equipoise.models.geometry import TokenGrid, squared_distance_to


def prediction_loss(predicted: Tensor, target: Tensor, power: float = 1.0) -> Tensor:
    """Mean of ``|predicted - target|^power / power`` over tokens and channels, in float32.

    Args:
        predicted: ``[B, M, D]``.
        target: ``[B, M, D]``.
        power: 1 is L1, the published choice.

    Returns:
        A scalar. The mean over masks is the caller's.
    """
    error = (predicted.float() - target.float()).abs()
    return error.mean() if power == 1.0 else error.pow(power).mean() / power


def context_loss(
    predicted_context: Tensor, target: Tensor, visible: Tensor, masked: Tensor, grid: TokenGrid, weighted: bool = True
) -> Tensor:
    """L1 at visible tokens, those near a masked token counting more (V-JEPA 2.1).

    The weight of a token is ``1 / sqrt(d)``, d the Euclidean distance in grid units to the nearest token of ``masked``.

    Args:
        predicted_context: ``[B, K, D]`` predictor output at the visible tokens.
        target: ``[B, T, H, W, D]`` target features.
        visible: int64 ``[B, K]`` indices of the visible tokens.
        masked: int64 ``[B, M]`` indices of the masked tokens, M at least 1.
        grid: the token grid.
        weighted: False gives every token the weight 1.

    Returns:
        A scalar. Lambda and the mean over masks are the caller's.
    """
    D = target.shape[-1]
    error = (predicted_context.float() - target.flatten(1, 3).gather(1, visible.unsqueeze(-1).expand(-1, -1, D))).abs()
    if not weighted:
        return error.mean()
    distance = squared_distance_to(grid.visible(masked)).flatten(1).gather(1, visible).sqrt()
    return (error.mean(-1) * distance.rsqrt()).mean()
