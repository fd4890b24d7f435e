"""``--help``: options in the same groups everywhere, examples that are true, completion."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from yoloprune.cli.main import app
from yoloprune.cli.panels import COMMANDS, EXAMPLES, OPTIONS, group_of
from yoloprune.cli.spelling import spelled

NAMES = list(get_command(app).commands)  # type: ignore[attr-defined]


def command(name: str) -> Any:
    return get_command(app).commands[name]  # type: ignore[attr-defined]


def helped(*args: str, columns: int = 80) -> list[str]:
    runner = CliRunner(env={"COLUMNS": str(columns), "TERM": "dumb"})
    done = runner.invoke(app, [*args, "--help"])
    assert done.exit_code == 0, done.output
    return [line.rstrip() for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_a_group(name: str) -> None:
    found = command(name)
    groups = {
        option.name: option.rich_help_panel or group_of(name, option.name)
        for option in found.params
        if option.param_type_name == "option"
    }
    assert set(groups.values()) <= set(OPTIONS), groups


def test_every_command_has_a_group_and_a_line() -> None:
    assert set(NAMES) <= {name for names in COMMANDS.values() for name in names}
    text = "\n".join(helped())
    assert all(f"│ {name} " in text for name in NAMES)
    assert text.index("Make it smaller") < text.index("Measure and look")


@pytest.mark.parametrize("columns", [80, 160])
@pytest.mark.parametrize("name", NAMES)
def test_groups_come_in_one_order_and_no_line_is_cut(name: str, columns: int) -> None:
    lines = helped(name, columns=columns)
    assert max(map(len, lines)) <= columns
    titles = [line.split("─ ")[1].split(" ─")[0] for line in lines if line.startswith("╭─")]
    groups = [title for title in titles if title != "Arguments"]
    assert groups == [title for title in OPTIONS if title in groups]
    assert groups[-1] == "Output"
    assert "<bool>" not in "\n".join(lines)


@pytest.mark.parametrize(
    "line", [line for lines in EXAMPLES.values() for line in lines], ids=lambda line: line[10:40]
)
def test_examples_are_true(line: str) -> None:
    program, name, *args = shlex.split(line.partition(" | ")[0])
    assert program == "yoloprune"
    found = command(name)
    assert found.make_context(name, spelled(args, found)).params


def test_a_shell_completes_commands_and_flags() -> None:
    def completed(words: str) -> list[str]:
        at = str(len(words.split(" ")) - 1)
        environment = {
            "_YOLOPRUNE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": at,
        }  # fmt: skip
        done = CliRunner(env=environment).invoke(app, [], prog_name="yoloprune")
        return done.stdout.split()

    assert completed("yoloprune sl") == ["slim"]
    assert completed("yoloprune slim --per") == ["--percent"]
    assert "--overwrite" in completed("yoloprune slim x.pt macs=0.5 --nonsense --ov")
