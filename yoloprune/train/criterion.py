"""By what ``auto`` chooses where nobody said: decided by the network that it is given.

A scale says what its channel is worth only where all were pressed towards zero alike. In a
network that was trained without that, scales differ by layer for other reasons, and a threshold
over all empties the layers whose scales happen to be small. There the loss is asked.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import nn

from yoloprune.channels.graph import ChannelGraph
from yoloprune.measure.quantiles import FloatArray
from yoloprune.prune.alive import NEAR_ZERO
from yoloprune.train.gammas import Gammas
from yoloprune.train.options import SparsityOptions

TRAINED_SPARSE = 0.1
"""Share of the prunable scales near zero from which they are taken for trained sparse. Networks
trained without sparsity have none at all, as a rule; after it, about as many as were asked for."""


def settled(
    options: SparsityOptions, model: nn.Module, graph: ChannelGraph
) -> tuple[SparsityOptions, str]:
    """Options that name a criterion, and in words why it is that one.

    Where they name none, ``auto`` takes ``gamma`` if at least :data:`TRAINED_SPARSE` of the
    prunable scales are near zero, else ``taylor``. All other methods look at the scales alone.

    Raises:
        TrainError: the model has no prunable BatchNorm.
    """
    if options.criterion is not None:
        return options, "as asked for"
    if options.method != "auto":
        return replace(options, criterion="gamma"), f"which is all that {options.method} looks at"
    gammas = Gammas(model, graph)
    scales = gammas.read(model).cpu().double().numpy()[gammas.free]
    share = near_zero_share(scales)
    if share >= TRAINED_SPARSE:
        why = f"for the scales were trained sparse: {share:.0%} of the prunable ones are near zero"
        return replace(options, criterion="gamma"), why
    why = f"for the scales were not trained sparse: {share:.0%} of the prunable ones are near zero"
    return replace(options, criterion="taylor"), why


def near_zero_share(scales: FloatArray) -> float:
    """Share of scales of at most :data:`NEAR_ZERO` times the median of all above these.

    The limit is sought downwards from the 95th percentile, which a few that stand out do not move:
    so it is found between the two heaps that a penalty makes, though most lie in the lower one and
    a sub-gradient leaves them only near zero.

    Args:
        scales: float64 ``[n]``, of either sign.
    """
    sizes = np.abs(scales)
    limit, lower = np.inf, NEAR_ZERO * float(np.quantile(sizes, 0.95))
    while lower < limit and (sizes > lower).any():
        limit, lower = lower, NEAR_ZERO * float(np.median(sizes[sizes > lower]))
    return float((sizes <= min(limit, lower)).mean())
