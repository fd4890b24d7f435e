"""Data flows one way: a module imports only from stages before its own."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "yoloprune"
STAGES = (
    ("errors",),
    ("files", "demo_data", "marker"),
    ("darknet",),
    ("checkpoint",),
    ("models",),
    ("channels",),
    ("replica", "score"),
    ("compensate", "plan"),
    ("planner", "selftest"),
    ("cut",),
    ("measure",),
    ("train", "export"),
    ("report",),
    ("pipeline", "inspection", "predict", "recipe"),
    ("rounds",),
    ("show",),
    ("cli",),
    ("__main__", "__init__"),
)
RANK = {name: rank for rank, names in enumerate(STAGES) for name in names}


def imported(path: Path) -> set[str]:
    """First-level modules of the package that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "yoloprune":
                names = [f"yoloprune.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("yoloprune.")}
    return found


def test_every_module_has_a_place() -> None:
    tops = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in modules()}
    assert tops == set(RANK)


def test_imports_point_back_up_the_line() -> None:
    for path in modules():
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for other in imported(path) - {own}:
            assert RANK[other] < RANK[own], f"{path.name} ({own}) imports {other}"


def modules() -> list[Path]:
    """The package's source files."""
    return [path for path in PACKAGE.rglob("*.py") if path.parent == PACKAGE or path.stem[0] != "_"]
