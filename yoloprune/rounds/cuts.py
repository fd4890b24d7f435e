"""What a recipe says of its cuts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from yoloprune.errors import YoloPruneError
from yoloprune.measure.runtimes import ProfiledName
from yoloprune.measure.targets import rounding
from yoloprune.prune.budget import LIMITS, Budget, Precision
from yoloprune.prune.choose import Scope
from yoloprune.prune.own import known_criteria
from yoloprune.prune.ratios import parse_ratios
from yoloprune.prune.score import CRITERIA, Reduce
from yoloprune.prune.sighted import RECON
from yoloprune.texts import cut, parse_amount, parse_latency, parse_time

Limit = str | int | float | None


@contextmanager
def as_value_error() -> Iterator[None]:
    """Let pydantic say where a record that checks itself stands."""
    try:
        yield
    except YoloPruneError as exc:
        raise ValueError(str(exc)) from exc


class Section(BaseModel):
    """A map of a recipe: nothing unknown in it, nothing converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _parsed(name: str, limit: str | float) -> float:
    """A limit as a budget has it."""
    if name == "latency":
        return parse_latency(str(limit))
    return parse_amount(str(limit), of_bytes=name == "bytes")


class SlimSection(Section):
    """The cuts.

    Attributes:
        percent: share of the dense network's prunable channels that the first round removes; may
            be left out where a limit is set.
        step: what each further round adds to it.
        macs, params, bytes: limits, of which all hold after the last round: shares of the dense
            network's, or amounts such as ``2.1G``. Each round before it takes the same factor.
        latency: a limit in the same way, ``0.5`` or ``12ms``, of a pass in …
        runtime, threads: … this runtime, with so many threads; as ``slim`` has it if not.
        precision: that ``bytes`` are counted in; as the model's file keeps them if not.
        ratios: shares of single layers after the last round, as a file of ``--ratios`` has them.
        min_channels, max_layer_prune: as in ``Budget``, of each cut.
        round_to: likewise; what the target wants, or 8, if not.
        target: what the network will run on, by a name of the table.
        criterion: what ranks the channels, by a name of the table or of an entry point.
        scope: over what they are compared.
        reduce: how tied channels make one score.
        compensate: fold constants of removed channels into what reads them.
        search: how long each round looks for better shares than even ones: ``90s``, ``3m``; 0 not
            at all. It is left out where the cut takes switched-off channels alone, and where a
            criterion or a scope sets the shares.
    """

    percent: float | None = None
    step: float = Field(default=0.0, ge=0, lt=1)
    macs: Limit = None
    params: Limit = None
    bytes: Limit = None
    latency: Limit = None
    runtime: ProfiledName | None = None
    threads: int | None = Field(default=None, ge=1)
    precision: Precision | None = None
    ratios: dict[str | int, Any] | None = None
    min_channels: int = 8
    max_layer_prune: float = 0.9
    round_to: int | None = None
    target: str | None = None
    criterion: str | None = None
    scope: Scope | None = None
    reduce: Reduce = "mean"
    compensate: bool = True
    search: str | int | float = "3m"

    @field_validator("search")
    @classmethod
    def _time(cls, search: str | int | float) -> str | int | float:
        parse_time(str(search))
        return search

    @property
    def seconds(self) -> float:
        """Of search."""
        return parse_time(str(self.search)) if self.searches else 0.0

    @property
    def rounding(self) -> int:
        """What kept counts are multiples of."""
        return rounding(self.round_to, self.target)

    @property
    def searches(self) -> bool:
        """Whether shares are left to be searched for."""
        known = CRITERIA.get(self.criterion or "")
        ranks = self.criterion is None or (known is not None and known.ranks)
        if self.percent is None and not self.limits:  # ratios set all shares
            return False
        return self.scope == "local" or (self.scope is None and ranks)

    @field_validator("criterion")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is None or name in known_criteria():
            return name
        why = ""
        if ":" in name:  # to import a module is to run it, and a recipe is not trusted
            why = ". Modules are imported for --criterion on the command line only"
        expected = ", ".join(known_criteria())
        raise ValueError(f"got {cut(repr(name), 60)}, expected one of {expected}{why}")

    @field_validator("ratios")
    @classmethod
    def _rules(cls, ratios: dict[str | int, Any] | None) -> dict[str | int, Any] | None:
        if ratios is not None:
            with as_value_error():
                parse_ratios(ratios, "rules")
        return ratios

    @field_validator("target")
    @classmethod
    def _target(cls, name: str | None) -> str | None:
        with as_value_error():
            rounding(None, name)
        return name

    @field_validator("macs", "params", "bytes", "latency")
    @classmethod
    def _limit(cls, limit: str | float | None, info: ValidationInfo) -> str | float | None:
        if limit is not None:
            _parsed(str(info.field_name), limit)
        return limit

    @property
    def limits(self) -> dict[str, float]:
        """Those that are set, by name: below 1 a share of the dense network's, else an amount."""
        set_ = {name: getattr(self, name) for name in LIMITS if getattr(self, name) is not None}
        return {name: _parsed(name, limit) for name, limit in set_.items()}

    @model_validator(mode="after")
    def _checked(self) -> SlimSection:
        if self.step and self.percent is None:
            raise ValueError("step: is added to percent. Give that too.")
        if "search" in self.model_fields_set and parse_time(str(self.search)) > self.seconds:
            raise ValueError("search: looks for shares of stages. Give scope: local, or search: 0.")
        if self.criterion == RECON and self.scope not in (None, "local"):
            raise ValueError(f"scope: {RECON} compares channels within their groups only")
        if self.latency is None and (self.runtime or self.threads):
            raise ValueError("runtime, threads: say what latency is. Give that, too.")
        if self.precision is not None and self.bytes is None:
            raise ValueError("precision: is what bytes are counted in. Give these too.")
        with as_value_error():
            self.budget(self.percent, self.limits, "fp32")
        return self

    def budget(
        self,
        percent: float | None,
        limits: Mapping[str, float],
        precision: Precision,
        rounds: int = 1,
    ) -> Budget:
        """Of a cut of so much of what is there, one of so many cuts of the same factor."""
        rules = () if self.ratios is None else parse_ratios(self.ratios, "ratios")
        return Budget(
            percent=percent,
            **limits,  # type: ignore[arg-type]
            precision=self.precision or precision,
            min_channels=self.min_channels,
            max_layer_prune=self.max_layer_prune,
            round_to=self.rounding,
            ratios=tuple(rule.in_rounds(rounds) for rule in rules),
        )
