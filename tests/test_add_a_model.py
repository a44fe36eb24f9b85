"""docs/add-a-model.md, followed to the letter in a copy of the checkout."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "add-a-model.md").read_text(encoding="utf-8")


def block(language: str, index: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)[index]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with the page's two files, where it says they go."""
    copy = tmp_path_factory.mktemp("add") / "aigc-ops"
    # What mypy remembers of this checkout goes along: without it the page waits for minutes.
    left_out = shutil.ignore_patterns(".venv", ".aigc_ops", ".git", "__pycache__", ".pytest_cache")
    shutil.copytree(ROOT, copy, ignore=left_out, symlinks=True)
    files = re.findall(r"Write `([^`]+)`", PAGE)
    assert files == ["aigc_ops/models/blur.py", "configs/blur.yaml"]
    for name, content in zip(files, (block("python"), block("yaml")), strict=True):
        (copy / name).write_text(content, encoding="utf-8")
    return copy


def run(checkout: Path, command: str) -> str:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=checkout,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "AIGC_OPS_"))},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(checkout),
            "PYTEST_ADDOPTS": "-n 0",  # two workers more would only take turns with ours
        },
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_the_laws_find_the_new_family_and_it_keeps_them(checkout):
    assert re.search(r"\d+ passed", run(checkout, block("sh", 0)))


def test_the_new_family_keeps_the_projects_lint_and_types(checkout):
    run(checkout, "ruff check -q aigc_ops && ruff format -q --check aigc_ops && mypy")


@pytest.mark.slow
def test_the_new_family_goes_through_the_whole_chain(checkout):
    assert "models:/blur/1 is champion" in run(checkout, block("sh", 1))


@pytest.mark.slow
def test_workers_are_offered_the_new_family(checkout):
    run(checkout, block("sh", 2))
    assert "entrypoint: flows/deployments.py:blur\n" in (checkout / "prefect.yaml").read_text()
