"""docs/tutorial.md, followed to the letter, from an empty folder to a served sample."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from PIL import Image

from tests.conftest import ROOT, listening

PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
LEFT_OUT = ("AIGC_OPS_", "PYTEST_", "PREFECT_", "MLFLOW_", "BENTOML_", "PYTHON")
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(LEFT_OUT)},
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


def run(folder: Path, commands: str) -> str:
    done = subprocess.run(
        ["bash", "-ec", commands],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_commands_that_are_not_run_are_known() -> None:
    [env, serve, curl] = blocks("text")
    assert env == "make env\n. .venv/bin/activate\n"
    assert serve == "aigc-ops serve models:/images@champion\n"
    assert curl.startswith("curl -s localhost:3000/generate")


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_tutorial_leads_to_a_service_for_pictures_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "shapes"
    monkeypatch.setitem(ENVIRONMENT, "HOME", str(tmp_path))
    make, draw, look, train, review, package, trace = blocks("sh")
    run(tmp_path, make)
    (project / "draw.py").write_text(blocks("python")[0])
    run(project, draw)
    assert re.search(r"images: 1\d\d\d to train on, \d+ held out", run(project, look))
    assert "waits for a decision" in run(project, train)
    assert "champion" in run(project, review)
    assert "Bento: images:" in run(project, package)
    serve = ["bash", "-c", f'exec {blocks("text")[1].strip()} "$@"', "bash"]
    with listening(serve, cwd=project, log=tmp_path / "log", **ENVIRONMENT) as url:
        [body] = re.findall(r"-d '(.*?)'", blocks("text")[2])
        headers = {"content-type": "application/json"}
        call = Request(f"{url}/generate", body.encode(), headers)
        with urlopen(call, timeout=60) as answer:
            assert answer.headers["X-AIGC-Label"] == str(json.loads(body)["label"])
            (project / "square.png").write_bytes(answer.read())
    with Image.open(project / "square.png") as picture:
        assert picture.size == (32, 32)
    shown = run(project, trace)
    assert "broken" not in shown
    assert "Ann" in shown
