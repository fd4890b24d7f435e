"""Criteria that look at more than weights, in the table; torch is imported when one is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yoloprune.channels.graph import ChannelGraph
from yoloprune.measure.quantiles import FloatArray
from yoloprune.prune.score import Reduce, criterion

if TYPE_CHECKING:
    from torch import nn

    from yoloprune.prune.evidence import Evidence, Lessons

RECON = "recon"
"""The criterion that is taken where there are pictures and the network was not trained sparse."""
_NO_GRADIENT = "no gradient of the loss"


@criterion("activation", missing="no layer that reads it", looks="pictures")
def _activation(
    model: nn.Module, graph: ChannelGraph, reduce: Reduce, evidence: Evidence
) -> FloatArray:
    from yoloprune.prune.activity import activation

    return activation(model, graph, reduce, evidence.images, evidence.place(model))


@criterion("taylor", missing=_NO_GRADIENT, looks="loss")
def _taylor(
    model: nn.Module, graph: ChannelGraph, reduce: Reduce, evidence: Evidence
) -> FloatArray:
    from yoloprune.prune.slopes import taylor

    return taylor(model, graph, _lessons(evidence), evidence.place(model))


@criterion("fisher", missing=_NO_GRADIENT, looks="loss")
def _fisher(
    model: nn.Module, graph: ChannelGraph, reduce: Reduce, evidence: Evidence
) -> FloatArray:
    from yoloprune.prune.slopes import fisher

    return fisher(model, graph, _lessons(evidence), evidence.place(model))


@criterion("hessian", missing=_NO_GRADIENT, looks="loss")
def _hessian(
    model: nn.Module, graph: ChannelGraph, reduce: Reduce, evidence: Evidence
) -> FloatArray:
    from yoloprune.prune.slopes import hessian

    return hessian(model, graph, _lessons(evidence), evidence.place(model))


@criterion(RECON, missing="no group", looks="pictures", ranks=True)
def _recon(model: nn.Module, graph: ChannelGraph, reduce: Reduce, evidence: Evidence) -> FloatArray:
    from yoloprune.prune.recon import removal_order

    return removal_order(model, graph, evidence.images, device=evidence.device).values


def _lessons(evidence: Evidence) -> Lessons:
    assert evidence.lessons is not None
    return evidence.lessons
