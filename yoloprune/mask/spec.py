"""What a mask is asked to be. Light: nothing here needs torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from yoloprune.errors import MaskError

Method = Literal[
    "random_unstructured",
    "l1_unstructured",
    "random_structured",
    "ln_structured",
    "global_unstructured",
    "n_m",
    "percentile",
    "custom",
]
Kind = Literal["conv", "bn", "both"]

METHODS: tuple[Method, ...] = get_args(Method)
STRUCTURED: tuple[Method, ...] = ("random_structured", "ln_structured")
"""Methods that mask whole slices of a weight along one of its axes."""
_NEEDS_NO_AMOUNT = ("n_m", "custom")


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskSpec:
    """Which weights of a network are masked, and how they are chosen.

    Attributes:
        method: by its name in ``torch.nn.utils.prune``, or ``n_m`` (of every M neighbours along the
            input channels the N largest stay), ``percentile`` (all weights up to one size in all
            layers go), ``custom`` (``mask`` or ``custom``).
        amount: share in (0, 1), or a number from 1 on: of the weights, or of the slices, of each
            layer that are not masked yet; with ``global_unstructured`` of all layers together, with
            ``percentile`` of all weights, masked or not, as a share.
        n: order of the norm that ``ln_structured`` ranks slices by; infinite is allowed.
        dim: axis that structured methods slice: 0 output channels, 1 input channels of a group, 2
            and 3 rows and columns of the kernel.
        layers: names or globs of layers, of modules around them, areas or numbers, as
            :mod:`yoloprune.prune.ratios` takes them; empty for all.
        kind: ``conv`` masks weights of convolutions, ``bn`` scales of BatchNorms, ``both`` both.
        pattern: N and M of ``n_m``.
        mask: file of masks, see :mod:`yoloprune.mask.files`.
        custom: a class derived from ``torch.nn.utils.prune.BasePruningMethod``, or where it is
            found, as ``module:Class``; with ``global_unstructured`` it chooses there.
        further: take what is exactly zero already as masked, and mask more.
        seed: of the random methods.

    Raises:
        MaskError: a value is out of its range, or belongs to another method.
    """

    method: Method
    amount: float | None = None
    n: float = 2.0
    dim: int = 0
    layers: tuple[str, ...] = ()
    kind: Kind = "conv"
    pattern: tuple[int, int] = (2, 4)
    mask: Path | None = None
    custom: str | type[Any] | None = None
    further: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every range, and what goes together."""
        if self.method not in METHODS:
            expected = ", ".join(METHODS)
            raise MaskError(f"--method: unknown, got {self.method!r}, expected {expected}.")
        if self.kind not in get_args(Kind):
            raise MaskError(f"--kind: unknown, got {self.kind!r}, expected conv, bn, both.")
        _check_amount(self)
        _check_shape(self)
        _check_own(self)

    def to_dict(self) -> dict[str, Any]:
        """What was asked, as JSON-able data; no more than the method looks at."""
        found: dict[str, Any] = {
            "method": self.method,
            "amount": self.amount,
            "kind": self.kind,
            "layers": list(self.layers),
            "further": self.further,
        }
        if self.method in STRUCTURED:
            found["dim"] = self.dim
        if self.method == "ln_structured":
            found["n"] = self.n if math.isfinite(self.n) else str(self.n)
        if self.method == "n_m":
            found["pattern"] = list(self.pattern)
        if self.method.startswith("random"):
            found["seed"] = self.seed
        for name in ("mask", "custom"):
            value = getattr(self, name)
            if value is not None:
                found[name] = getattr(value, "__qualname__", str(value))
        return found

    def in_round(self, number: int) -> MaskSpec:
        """The same for one of several rounds, from 1, each of which masks more of what is left.

        Raises:
            MaskError: masks of this method do not grow.
        """
        from dataclasses import replace

        if self.method == "n_m" or self.mask is not None:
            raise MaskError(f"--rounds: masks of --method {self.method} do not grow by rounds.")
        amount = self.amount
        if self.method == "percentile" and amount is not None:
            amount = 1 - (1 - amount) ** number
        return replace(self, amount=amount, further=True, seed=self.seed + number - 1)


def _check_amount(spec: MaskSpec) -> None:
    amount, method = spec.amount, spec.method
    if amount is None:
        if method not in _NEEDS_NO_AMOUNT:
            raise MaskError(f"--amount: is missing, which --method {method} needs.")
        return
    if method == "n_m" or spec.mask is not None:
        raise MaskError(f"--amount: is not for --method {method}, which sets it. Leave it out.")
    whole = amount >= 1 and float(amount).is_integer()
    if not (0 < amount < 1 or whole) or (whole and method == "percentile"):
        raise MaskError(
            f"--amount: got {amount:g}, expected a share between 0 and 1"
            + ("." if method == "percentile" else ", or a whole number from 1 on.")
        )


def _check_shape(spec: MaskSpec) -> None:
    if not 0 <= spec.dim <= 3:
        raise MaskError(f"--dim: got {spec.dim}, expected 0 to 3, an axis of a weight.")
    if math.isnan(spec.n):
        raise MaskError("--n: got nan, expected the order of a norm, such as 1, 2 or inf.")
    keep, of = spec.pattern
    if not 1 <= keep < of:
        raise MaskError(f"--pattern: got {keep}:{of}, expected N:M with 1 <= N < M, such as 2:4.")
    if spec.kind != "conv" and spec.method in (*STRUCTURED, "n_m"):
        raise MaskError(
            f"--kind {spec.kind}: is not for --method {spec.method}, since a BatchNorm has one "
            "scale a channel and no slices. Use --kind conv, or an unstructured method."
        )


def _check_own(spec: MaskSpec) -> None:
    if spec.method == "custom":
        if (spec.mask is None) == (spec.custom is None):
            raise MaskError("--method custom: needs either --mask FILE or --custom module:Class.")
    elif spec.mask is not None:
        raise MaskError(f"--mask: is not for --method {spec.method}. Use --method custom.")
    elif spec.custom is not None and spec.method != "global_unstructured":
        raise MaskError(
            f"--custom: is not for --method {spec.method}. Use custom or global_unstructured."
        )


def parse_amount(text: str) -> float:
    """Read ``0.4``, ``40%`` or a whole number such as ``100``.

    Raises:
        MaskError: it is none.
    """
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise MaskError(f"--amount: got {text!r}, expected a share or a number.") from None


def parse_pattern(text: str) -> tuple[int, int]:
    """Read N:M, such as ``2:4``.

    Raises:
        MaskError: it is none.
    """
    first, colon, second = text.partition(":")
    if not (colon and first.isdecimal() and second.isdecimal()):
        raise MaskError(f"--pattern: got {text!r}, expected N:M, such as 2:4.")
    return int(first), int(second)


def spec_of(given: Mapping[str, Any]) -> MaskSpec:
    """A spec from what the command line was given, by field; None where a flag was left out."""
    return MaskSpec(**{name: value for name, value in given.items() if value is not None})
