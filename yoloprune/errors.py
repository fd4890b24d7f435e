"""Everything that yoloprune raises on purpose.

::

    YoloPruneError
    ├── FormatError            a file does not say what its format asks for
    │   ├── CfgError           a Darknet .cfg
    │   ├── WeightsError       a Darknet .weights
    │   └── CheckpointError    an Ultralytics .pt
    ├── DataError              a data set description, its pictures or labels
    ├── TraceError             the channels of a model could not be followed
    │   └── UnsupportedOpError
    ├── PlanError              a budget that cannot be met, or a plan that does not fit the model
    ├── CutError               surgery, or its self-test, failed
    ├── MaskError              a mask cannot be made, or does not fit the model
    ├── TrainError             training cannot start or lost the structure
    ├── RecipeError            a recipe is malformed, or is not the one that its run began with
    ├── ExportError            a model could not be exported, or differs from what it was
    └── MeasureError           a measurement would not mean anything

Messages read ``<where>: <what is wrong>, got <value>, expected <set>. <next step>``.
The command line prints them as one line and exits with 1.
"""

from __future__ import annotations


class YoloPruneError(Exception):
    """Base of every error that yoloprune raises on purpose."""


class FormatError(YoloPruneError):
    """A model file does not say what its format asks for."""


class CfgError(FormatError):
    """A Darknet ``.cfg`` is malformed, or asks for something that is not supported."""


class WeightsError(FormatError):
    """A Darknet ``.weights`` file is cut off, too long, or of another network."""


class CheckpointError(FormatError):
    """A ``.pt`` checkpoint cannot be read, or cannot be trusted."""


class DataError(YoloPruneError):
    """A data set description names pictures or labels that are missing or malformed."""


class TraceError(YoloPruneError):
    """The channels of a model could not be followed through its forward pass."""


class UnsupportedOpError(TraceError):
    """An operation stands where channels must be followed and has no rule."""


class PlanError(YoloPruneError):
    """A budget cannot be met, or a plan does not fit the model that it is applied to."""


class CutError(YoloPruneError):
    """Surgery failed, or its self-test found that outputs changed."""


class MaskError(YoloPruneError):
    """A mask cannot be made as asked, or does not fit the model."""


class TrainError(YoloPruneError):
    """Training cannot start, or would lose the structure of the model."""


class RecipeError(YoloPruneError):
    """A recipe is malformed, or is not the one that its run began with."""


class ExportError(YoloPruneError):
    """A model could not be exported, or what came out is not the same model."""


class MeasureError(YoloPruneError):
    """A measurement cannot be made, or would not mean anything."""


def first_line(exc: BaseException) -> str:
    """What a foreign exception says, in one line; the name of its class where it says nothing."""
    lines = str(exc).strip().splitlines()
    return lines[0] if lines else type(exc).__name__


def typed_line(exc: BaseException, most: int = 160) -> str:
    """Class and first line of a foreign exception, of which ``most`` characters are kept."""
    lines = str(exc).strip().splitlines() or [""]
    return f"{type(exc).__name__}: {lines[0][:most]}"
