"""The command line's last word: one JSON object and one line, whatever went wrong."""

import json
import re
from contextlib import suppress
from pathlib import Path

import pytest

from aigc_ops.__main__ import main
from aigc_ops.cli import pipeline_commands
from aigc_ops.cli.parser import COMMAND_GROUPS

LONG = "a" * 300


def told(capfd: pytest.CaptureFixture[str], *argv: str, code: int) -> str:
    """The error in the one JSON object on standard output; it ends standard error too."""
    assert main([*argv, "--json"]) == code
    output, said = capfd.readouterr()
    error: str = json.loads(output)["error"]
    assert error in said.splitlines()[-1]
    return error


@pytest.mark.parametrize(
    "argv",
    [["validate", LONG], ["data", "show", LONG], ["trace", LONG], ["score", LONG, "data"]],
    ids=lambda argv: argv[0],
)
def test_a_name_that_no_file_can_have_is_an_error_like_another(argv, capfd):
    error = told(capfd, *argv, code=1)
    assert "File name too long" in error
    assert "check the path" in error


@pytest.mark.parametrize("argv", [["data", "show"], ["train", "x.yaml", "--name"]])
def test_words_that_are_not_utf_8_are_refused_before_anything_is_done(argv, capfd):
    assert "is not UTF-8" in told(capfd, *argv, "\udcff", code=2)


def test_what_nobody_foresaw_leaves_a_traceback_for_a_report(capfd, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("by nought")

    monkeypatch.setitem(pipeline_commands.COMMANDS, "models", broken)
    assert main(["models", "--json"]) == 1
    output, said = capfd.readouterr()
    assert json.loads(output)["kind"] == "ZeroDivisionError"
    assert "Traceback" in said
    assert "please report it" in said.splitlines()[-1]


@pytest.mark.parametrize("mark", ["?", "#", "%"])
def test_a_home_that_no_address_can_hold_is_refused(mark, capfd, monkeypatch, tmp_path):
    monkeypatch.setenv("AIGC_OPS_HOME", f"{tmp_path}/my{mark}home")
    assert "choose a path without it" in told(capfd, "models", code=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", ["nan", "inf", "-1"])
def test_a_cache_has_a_size(size, capfd):
    assert "gigabytes" in told(capfd, "cache", "prune", "--max-gb", size, code=2)


@pytest.mark.parametrize("argv", [[], ["smaple"], ["sample"], ["sample", "x", "--num", "a"]])
def test_words_that_are_no_command_are_refused_like_any_other(argv, capfd):
    assert "argument" in told(capfd, *argv, code=2)


@pytest.mark.parametrize(
    ("variable", "value"), [("AIGC_OPS_MAX_NUM", "many"), ("AIGC_OPS_DEVICE", "abacus")]
)
def test_a_service_whose_settings_do_not_fit_is_not_begun(variable, value, capfd, monkeypatch):
    monkeypatch.setenv(variable, value)
    assert f"{variable}={value}: " in told(capfd, "serve", "models:/digits@champion", code=2)


def test_a_version_is_given_once(capfd):
    assert "a name and a version" in told(capfd, "review", "models:/digits/1", "4", code=2)


def test_names_in_errors_show_no_invisible_characters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", "a\x1b[31m\u202eb"]) == 1
    told = capsys.readouterr().err
    assert "a\\x1b[31m\\u202eb does not exist" in told


def test_an_empty_dataset_path_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", ""]) == 2
    assert "an empty path" in capsys.readouterr().err


def test_an_integer_that_python_refuses_is_no_readable_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "long.yaml"
    path.write_text("seed: " + "9" * 5000)
    assert main(["validate", str(path)]) == 2
    assert "not readable as YAML" in capsys.readouterr().err


def test_help_lists_every_command_once_in_a_group_on_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    listed = [line for line in shown.splitlines() if re.match(r"  [a-z]+ +\S", line)]
    commands = [line.split()[0] for line in listed if line.split()[0] != "aigc-ops"]
    assert sorted(commands) == sorted(pipeline_commands.COMMANDS)
    assert all(len(line) <= 80 for line in listed)
    assert [line[:-1] for line in shown.splitlines() if line[:-1] in COMMAND_GROUPS] == [
        *COMMAND_GROUPS
    ]


@pytest.mark.parametrize("command", pipeline_commands.COMMANDS)
def test_the_help_of_a_command_begins_with_its_usage(
    command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with suppress(SystemExit):
        main([command, "--help"])
    assert capfd.readouterr().out.startswith(f"usage: aigc-ops {command} ")
