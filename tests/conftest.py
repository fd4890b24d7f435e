"""What every test starts from: one thread, fixed seeds, and the shared data where it is there."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Sums come out the same on every machine, and parallel runs do not fight over cores."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Random weights and pictures are the same in every run and in any order of the tests."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_handlers_left() -> Iterator[None]:
    """The command line logs to the standard error of its test, which is closed afterwards."""
    root = logging.getLogger()
    before = root.handlers[:]
    yield
    for handler in root.handlers[:]:
        if handler not in before and not type(handler).__module__.startswith("_pytest"):
            root.removeHandler(handler)


@pytest.fixture(scope="session")
def repo() -> Path:
    """The repository's root."""
    return REPO


@pytest.fixture(scope="session")
def shared(repo: Path) -> Path:
    """The folder of real models and pictures beside the repository; the test skips without it."""
    folder = repo.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs {folder.name}/ beside the repository")
    return folder
