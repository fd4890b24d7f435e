"""Data flows one way: a folder imports only from those above it, and no module in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "yoloprune"
STAGES = (
    ("errors", "version"),
    ("files", "limits", "plain", "progress", "texts"),
    ("fetch",),
    ("channels", "darknet"),
    ("models",),
    ("measure",),
    ("prune",),
    ("mask",),
    ("train",),
    ("report",),
    ("rounds",),
    ("api",),
    ("cli",),
    ("__main__", "__init__"),
)
RANK = {name: rank for rank, names in enumerate(STAGES) for name in names}
LONG = 400
"""Lines of a module that asks for a reason."""
LONG_BECAUSE = {
    "channels/rules.py": "one table of what each ATen op does to channels, an entry an op",
    "darknet/heads.py": "three heads and their options, which share their decoding",
    "measure/targets.py": "one table of what devices want, an entry a device",
}
LONGEST_FUNCTION = 60


def modules() -> dict[str, Path]:
    """Dotted name → file of every module of the package."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = ("yoloprune", *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(path: Path, known: set[str], *, running: bool) -> set[str]:
    """Modules of the package that a file imports, wherever in it.

    Args:
        path: the file.
        known: names of all modules.
        running: leave out what only a type checker reads.
    """
    tree = ast.parse(path.read_text())
    skipped = set()
    for node in ast.walk(tree):
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if running and typing_only:
            skipped |= {id(inner) for inner in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            full = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {name if name in known else node.module for name in full}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & known


def place(name: str) -> str:
    """First-level name of a module."""
    return name.split(".")[1] if "." in name else "__init__"


def test_every_folder_has_a_place() -> None:
    assert {place(name) for name in modules()} == set(RANK)


def test_imports_point_back_up_the_line() -> None:
    found = modules()
    for name, path in found.items():
        for other in imports(path, set(found), running=False):
            if place(other) != place(name):
                assert RANK[place(other)] < RANK[place(name)], f"{name} imports {other}"


def test_no_module_imports_itself_through_others() -> None:
    found = modules()
    edges = {name: imports(path, set(found), running=False) for name, path in found.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " → ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for other in edges[name]:
                visit(other, (*trail, name))
            done.add(name)

    for name in found:
        visit(name, ())


def test_long_modules_say_why() -> None:
    lines = {
        path.relative_to(PACKAGE).as_posix(): len(path.read_text().splitlines())
        for path in modules().values()
    }
    assert {name for name, count in lines.items() if count > LONG} == set(LONG_BECAUSE)


def test_no_function_is_longer_than_a_page() -> None:
    long = []
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = (
                    (node.end_lineno or 0) - node.body[0].lineno + 1
                )  # a command has many options
                if count > LONGEST_FUNCTION:
                    long.append(f"{name}.{node.name}: {count}")
    assert not long
