import argparse
import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks.results import (
    FOLDER,
    ROOT,
    Result,
    benchmark_parser,
    command_line,
    read_results,
    recorder,
)


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    # In its own process, because benchmarks/vae.py adds a model family where it is imported.
    command = [sys.executable, "benchmarks/page.py", "--check", "--results", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the results."""
    return shutil.copytree(FOLDER, tmp_path / "results")


def arguments(folder: Path, *words: str) -> argparse.Namespace:
    return benchmark_parser(None).parse_args(["--results", str(folder), *words])


def change(path: Path, **fields: object) -> None:
    result = Result.model_validate_json(path.read_text()).model_copy(update=fields)
    path.write_text(result.to_json())


def test_the_page_shows_the_results_and_every_documented_command_parses() -> None:
    done = check(FOLDER)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_changed_figure_an_unknown_argument_and_a_missing_script_are_reported(
    folder: Path,
) -> None:
    change(folder / "dcgan-plain.json", ratio=9.0)
    change(folder / "streaming.json", command="python benchmarks/streaming.py --round 6")
    change(folder / "demo.json", command="make demonstration")
    change(folder / "help.json", command="python benchmarks/helps.py")
    done = check(folder)
    assert done.returncode == 1
    problems = sorted(re.sub(r"^.*/(?=\w+\.md)", "", line) for line in done.stdout.splitlines())
    assert problems[0] == "benchmarks.md: differs from the results; run python benchmarks/page.py"
    assert [line.partition(":")[0] for line in problems[1:]] == ["demo", "help", "streaming"]
    assert "unknown arguments ['--round', '6']" in problems[3]


def test_every_result_was_measured_and_names_no_place_of_a_machine() -> None:
    results = read_results()
    assert results
    for name, result in results.items():
        assert result.name == name
        assert not re.search(r"/(?:home|root|tmp|var|work|Users)/|~", result.to_json()), name


def test_scripts_import_neither_the_tests_nor_the_package_of_benchmarks() -> None:
    # `python benchmarks/X.py` has only the script's folder and the installed packages on its path.
    for path in (ROOT / "benchmarks").glob("*.py"):
        assert not re.search(r"^\s*(?:from|import) (?:tests|benchmarks)\b", path.read_text(), re.M)


def test_a_recorded_figure_replaces_the_measured_fields_alone(folder: Path) -> None:
    before = read_results(folder)["dcgan-plain"]
    record = recorder(arguments(folder, "--label", ""))
    record("dcgan-plain", [200.0, 240, 220], [100.0, 100, 100], ratios=[2.0, 2.4, 2.2])
    after = read_results(folder)["dcgan-plain"]
    assert (after.value, after.peer_value, after.ratio) == (220, 100, 2.2)
    assert after.spread == (2.0, 2.4, 2.2)
    assert after.date == datetime.now(UTC).date()
    assert after.hardware.cores >= 1
    assert after.commit is None or re.match("[0-9a-f]{12}", after.commit)
    static = {"name", "description", "unit", "peer", "target"}
    assert after.model_dump(include=static) == before.model_dump(include=static)
    text = (folder / "dcgan-plain.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def test_a_label_makes_another_file_and_without_a_folder_nothing_is_written(folder: Path) -> None:
    recorder(arguments(folder, "--label", "16-epochs"))("vae-rate", [2.0, 3.0])
    assert read_results(folder)["vae-rate-16-epochs"].value == 2.5
    with pytest.raises(SystemExit, match="nothing-such"):
        recorder(arguments(folder, "--label", ""))("nothing-such", [1.0])
    assert read_results(folder)["vae-rate"] == read_results()["vae-rate"]
    recorder(benchmark_parser(None).parse_args([]))("nothing-such", [1.0])


def test_a_command_is_recorded_without_paths_and_without_the_arguments_that_record_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    corpus = tmp_path / "a text.txt"
    corpus.write_text("")
    words = [
        *("/somewhere/benchmarks/x.py", "costs", "--corpus", str(corpus), f"--to={tmp_path}"),
        *("--results", str(tmp_path), "--steps", "3", "--label", "new", "../other"),
        *("models:/a@champion", "--try", "configs/mnist-gan.yaml --model.r1 0.1"),
    ]
    assert command_line(words) == (
        "OMP_NUM_THREADS=1 python benchmarks/x.py costs --corpus FILE --to=FOLDER --steps 3 "
        "FOLDER models:/a@champion --try 'configs/mnist-gan.yaml --model.r1 0.1'"
    )


def test_a_target_is_missed_when_one_of_its_conditions_does_not_hold() -> None:
    result = read_results()["characters-loss"]
    assert result.target == "value <= 1.88, value <= peer"
    assert not result.missed()
    assert result.model_copy(update={"value": 1.89}).missed()
    assert result.model_copy(update={"peer_value": 1.87}).missed()
    assert read_results()["dcgan-plain"].missed()
