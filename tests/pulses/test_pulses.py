"""A modality of another package goes through every stage, and nothing but its folder knows it."""

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT, listening
from tests.flows.conftest import Console
from tests.pulses.conftest import PACKAGE, PulseWorkplace
from tests.pulses.making import LENGTH

PAGE = (ROOT / "docs" / "add-a-modality.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def first(workplace: PulseWorkplace) -> Any:
    """The answer of the first run of the whole chain."""
    return workplace.run("run", workplace.config)[0]


def levels(content: bytes) -> Any:
    return np.frombuffer(content, dtype="<f4")


def test_the_page_shows_the_packages_own_code() -> None:
    excerpts = re.findall(r"```(?:python|ini) (\S+)\n(.*?)```", PAGE, re.S)
    assert {name for name, _ in excerpts} == {
        "pulses-0.1.dist-info/entry_points.txt",
        "pulses/__init__.py",
        *(f"pulses/{name}.py" for name in ("data", "samples", "training", "evaluation")),
    }
    for name, excerpt in excerpts:
        assert unindented(excerpt) in unindented((PACKAGE / name).read_text("utf-8")), name


def unindented(code: str) -> str:
    return "\n".join(line.strip() for line in code.strip().splitlines())


def test_its_family_passes_the_laws(workplace: PulseWorkplace, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--pyargs",
        "aigc_ops.laws",
        "--family",
        "gauss",
        "-rs",
    ]
    environment = {k: v for k, v in workplace.environment.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    # Only those of optional interfaces are skipped.
    skipped = re.findall(r"SKIPPED \[\d+\].*: (.*)", done.stdout)
    assert set(skipped) == {"the family does not interpolate", "the family does not reconstruct"}


def test_its_data_is_found_validated_and_learnt(first: Any) -> None:
    assert first["dataset"]["modality"] == "pulses"
    assert first["dataset"]["shape"] == {"length": LENGTH, "class_names": ["0", "1"]}
    assert first["report"]["num_expectations"] == 9
    assert "every level is within 10" in Path(first["report"]["json_uri"]).read_text()
    assert first["pulses_per_second"] > 0
    assert Path(first["checkpoint"]["grid_uri"]).name == "samples.tsv"


def test_it_is_scored_by_its_own_metrics(first: Any) -> None:
    scores = first["scores"]
    assert set(scores["values"]) == {"mean_distance", "loudness", "copies_in_levels"}
    assert scores["primary"] == "mean_distance"
    assert scores["values"]["mean_distance"]["value"] < 0.01
    report = Path(scores["report_uri"]).read_text()
    assert "squared distance of the mean pulses" in report
    assert "<td" in report


def test_its_champion_is_packaged_with_the_code_that_serves_it(first: Any) -> None:
    assert first["verdict"]["promoted"]
    assert first["bento"]["num_golden"] == 8
    assert first["bento"]["max_levels_apart"] == 0
    source = Path(first["bento"]["uri"]) / "src"
    assert (source / "pulses" / "gauss.py").is_file()
    assert "gauss = pulses.gauss" in next(source.glob("pulses-*/entry_points.txt")).read_text()


@pytest.mark.slow
def test_a_second_version_is_weighed_against_the_first(
    workplace: PulseWorkplace, console: Console, first: Any
) -> None:
    flags = ("--seed", 1, "--training.steps", 2)
    checkpoint, _ = console.run("train", workplace.config, *flags)
    console.run("evaluate", checkpoint["uri"])
    version, _ = console.run("register", checkpoint["uri"])
    verdict, _ = console.run("promote", version["uri"])
    assert not verdict["promoted"]
    assert "mean_distance" in verdict["reasons"][0]
    packet = Path(verdict["packet_uri"]).read_text()
    assert "Samples from the same seeds" in packet
    assert "loudness" in packet


def test_samples_are_files_that_lead_back_to_their_model(
    console: Console, first: Any, tmp_path: Path
) -> None:
    out = tmp_path / "samples"
    console.run("sample", "models:/pulses@champion", "--num", 3, "--seed", 7, "--out", out)
    assert len(levels((out / "00001.pulse").read_bytes())) == LENGTH
    traced, _ = console.run("trace", out / "00001.pulse")
    assert first["version"]["manifest_digest"] in json.dumps(traced)


PREDICT = """
import json, mlflow, pandas
model = mlflow.pyfunc.load_model("models:/pulses/1")
table = model.predict(pandas.DataFrame({"seed": [7, 8], "label": [1, 0]}))
print(json.dumps([[c.hex() for c in table["pulse"]], list(table.columns)]))
"""


def test_mlflow_and_the_service_give_the_same_samples(
    workplace: PulseWorkplace, first: Any, tmp_path: Path
) -> None:
    store = f"sqlite:///{workplace.home / 'mlflow' / 'mlflow.db'}"
    done = subprocess.run(
        [sys.executable, "-c", PREDICT],
        env={**workplace.environment, "MLFLOW_TRACKING_URI": store},
        capture_output=True,
        text=True,
        check=True,
    )
    pulses, columns = json.loads(done.stdout.splitlines()[-1])
    assert columns == ["seed", "label", "pulse"]
    serve = workplace.command("serve", "models:/pulses@champion")
    with listening(serve, cwd=ROOT, log=tmp_path / "log", **workplace.environment) as url:
        assert ask(url, label=1, seed=7) == bytes.fromhex(pulses[0])
        assert ask(url, label=0, seed=8) == bytes.fromhex(pulses[1])
        described = urllib.request.urlopen(f"{url}/docs.json").read().decode()
        assert "Class of the pulse." in described
        assert "prompt" not in described


def ask(url: str, **fields: int) -> bytes:
    request = urllib.request.Request(
        f"{url}/generate",
        json.dumps(fields).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        assert response.headers["content-type"] == "application/octet-stream"
        return response.read()


def test_files_of_it_are_found_as_well(workplace: PulseWorkplace, tmp_path: Path) -> None:
    for index in range(20):
        path = tmp_path / ("a" if index % 2 else "b") / f"{index}.pulse"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(np.full(LENGTH, index, "<f4").tobytes())
    answer, _ = workplace.run("data", "show", tmp_path)
    assert answer["modality"] == "pulses"
    assert answer["shape"]["class_names"] == ["a", "b"]
