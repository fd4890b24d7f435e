"""What every list of timed passes is asked: its median, its spread, whether to trust it."""

from __future__ import annotations

import statistics

_NOISY = 0.1


class Timed:
    """What has ``times_ms``: every counted pass, in order, in milliseconds for the whole batch."""

    __slots__ = ()
    times_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """Median time of a pass, of the whole batch."""
        return statistics.median(self.times_ms)

    @property
    def iqr_ms(self) -> float:
        """Distance between the quartiles, 0 for a single pass."""
        if len(self.times_ms) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.times_ms, n=4, method="inclusive")
        return high - low

    @property
    def noisy(self) -> bool:
        """Whether the IQR exceeds a tenth of the median: do not trust small differences."""
        return self.iqr_ms > _NOISY * self.median_ms
