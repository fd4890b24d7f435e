"""Ways to choose that ``torch.nn.utils.prune`` does not have, as its own kind of class."""

from __future__ import annotations

from torch import Tensor
from torch.nn.utils.prune import BasePruningMethod


class NofM(BasePruningMethod):
    """Of every M neighbours along an axis the N of largest size stay, those masked before last.

    The pattern that sparse tensor cores take as 2:4, along the axis that a product sums over.

    Args:
        n: that stay …
        m: … of so many.
        dim: axis, whose length M divides.

    Reference: Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks", section 3.
    """

    PRUNING_TYPE = "global"  # it needs the whole tensor, in its shape

    def __init__(self, n: int, m: int, dim: int) -> None:
        self.n, self.m, self.dim = n, m, dim

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Zeros and ones in the shape of ``t``, zero where ``default_mask`` is."""
        size = t.abs().masked_fill(default_mask == 0, -1).movedim(self.dim, -1)
        groups = size.reshape(*size.shape[:-1], -1, self.m)
        order = groups.argsort(dim=-1, descending=True, stable=True)
        stay = groups.new_zeros(groups.shape).scatter(-1, order[..., : self.n], 1)
        return stay.reshape(size.shape).movedim(-1, self.dim) * default_mask


class AboveThreshold(BasePruningMethod):
    """Whatever is not larger in size than a threshold goes.

    Args:
        threshold: at least 0.
    """

    PRUNING_TYPE = "global"

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Zeros and ones in the shape of ``t``, zero where ``default_mask`` is."""
        return (t.abs() > self.threshold).to(default_mask) * default_mask
