"""The public door: every name is there, sorted, and nothing heavy is imported before its use."""

from __future__ import annotations

import subprocess
import sys

import yoloprune

CLASSES = """
    BenchResult Budget ChannelGraph DistillOptions Evaluation ExportOptions ExportResult
    MaskSpec PrunePlan RecipeRun Scores Slimmed Source Sparsity SparsityOptions Table
    TrainOptions TrainResult YoloPruneError
"""
FUNCTIONS = """
    bench cut cut_units evaluate export_model find_blocks load made_permanent mask_model plan
    remove_blocks repair run_recipe save score slim sparsity trace train_model trainer_for
"""


def test_the_names_are_these() -> None:
    """The interface: what is taken away or renamed here breaks what users wrote."""
    assert yoloprune.__all__ == [*CLASSES.split(), *FUNCTIONS.split()]


def test_every_name_opens() -> None:
    for name in yoloprune.__all__:
        assert getattr(yoloprune, name).__name__ == {"train_model": "train"}.get(name, name)


def test_names_are_sorted_and_found_by_dir() -> None:
    assert yoloprune.__all__ == sorted(yoloprune.__all__)
    assert set(yoloprune.__all__) <= set(dir(yoloprune))
    assert set(yoloprune._HOMES) == set(yoloprune.__all__)


def test_other_names_do_not() -> None:
    assert not hasattr(yoloprune, "no_such_thing")


def test_no_name_hides_a_module() -> None:
    import pkgutil

    modules = {module.name for module in pkgutil.iter_modules(yoloprune.__path__)}
    assert not modules & set(yoloprune.__all__)


def test_the_door_itself_is_light() -> None:
    script = "import sys, yoloprune, yoloprune.cli.main; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
