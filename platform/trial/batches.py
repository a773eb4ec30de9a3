"""From a batch of clips to the model's input: crops, masks, motion."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
