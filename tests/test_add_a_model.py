"""docs/add-a-model.md, followed to the letter: a project with a family of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "add-a-model.md").read_text(encoding="utf-8")


def block(language: str, index: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)[index]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's project, with the page's two files where it says they go."""
    folder = tmp_path_factory.mktemp("add")
    run(folder, f"set -e\n{block('sh', 0)}")
    files = re.findall(r"Write `([^`]+)`", PAGE)
    assert files == ["families/blur.py", "configs/blur.yaml"]
    for name, content in zip(files, (block("python"), block("yaml")), strict=True):
        (folder / "mine" / name).write_text(content, encoding="utf-8")
    return folder / "mine"


def run(folder: Path, command: str, **variables: str) -> str:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "AIGC_OPS_"))},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_the_laws_find_the_new_family_and_it_keeps_them(project):
    assert re.search(r"\d+ passed", run(project, block("sh", 1)))


@pytest.mark.slow
def test_the_new_family_keeps_our_lint_and_types(project):
    config = ROOT / "pyproject.toml"
    # Without the order of imports: in a project, aigc_ops is one package among others.
    run(project, f"ruff check -q --config {config} --extend-ignore I families/blur.py")
    run(project, f"ruff format -q --check --config {config} families/blur.py")
    cache = ROOT / ".mypy_cache"
    check = f"mypy --config-file {config} --cache-dir {cache} families/blur.py"
    run(project, check, MYPYPATH=str(ROOT))


@pytest.mark.slow
def test_the_new_family_goes_through_the_whole_chain(project):
    assert "models:/blur/1 is champion" in run(project, block("sh", 2))


@pytest.mark.slow
def test_workers_are_offered_the_new_family(project):
    run(project, block("sh", 3))
    assert "entrypoint: flows.deployments.blur\n" in (project / "prefect.yaml").read_text()
