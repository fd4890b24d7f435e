"""What a GPU's driver says of its clocks, so that a slow run can be told from a slow network."""

from __future__ import annotations

import subprocess

_ASKED = (
    "name", "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "temperature.gpu",
    "power.draw", "power.limit", "clocks_throttle_reasons.active", "utilization.gpu",
)  # fmt: skip
_IDLE = 0x1
"""Bit of the throttle reasons that says only that nothing runs."""


def gpu_state(index: int) -> dict[str, str]:
    """Clocks, temperature, power and throttling of a GPU, as nvidia-smi has them; never set.

    Returns:
        Name as nvidia-smi has it → value; empty where there is none to ask.
    """
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--id={index}", f"--query-gpu={','.join(_ASKED)}",
             "--format=csv,noheader"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {}
    return read_state(done.stdout)


def read_state(line: str) -> dict[str, str]:
    """Of what nvidia-smi printed."""
    values = [value.strip() for value in line.strip().split(",")]
    return dict(zip(_ASKED, values, strict=True)) if len(values) == len(_ASKED) else {}


def throttled(state: dict[str, str]) -> bool:
    """Whether the driver held the clocks down for heat, power or another reason."""
    try:
        reasons = int(state.get("clocks_throttle_reasons.active", "0"), 16)
    except ValueError:
        return False
    return bool(reasons & ~_IDLE)
