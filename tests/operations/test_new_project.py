"""`aigc-ops init`: what a new project holds, and a wheel that makes one without the checkout."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from aigc_ops.core.errors import ConfigError
from aigc_ops.core.project import PROJECT_FILE, project_requirements
from aigc_ops.operations.new_project import create_project
from aigc_ops.pipeline.run_config import load_config
from tests.conftest import ROOT, listening


def test_init_makes_a_project_whose_configs_and_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIGC_OPS_HOME")
    folder = tmp_path / "my digits"
    done = aigc_ops("init", str(folder), "--sample", "--json", cwd=tmp_path)
    answer = json.loads(done.stdout)
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert set(answer["files"]) == {name for name in files if not name.startswith(".git/")}
    assert {PROJECT_FILE, "README.md", "bentofile.yaml", "prefect.yaml", ".gitignore"} <= files
    assert not (tmp_path / ".aigc_ops").exists()
    monkeypatch.chdir(folder)
    for path in Path("configs").glob("*.yaml"):
        load_config(path)
    assert list(project_requirements(folder)) == []


@pytest.mark.slow
def test_commands_below_the_project_use_its_data_and_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIGC_OPS_HOME")
    folder = tmp_path / "my digits"
    create_project(folder, sample=True, prefect_yaml="")
    below = folder / "configs"
    assert "data that DVC pins" in aigc_ops("data", "pull", "../data", cwd=below).stdout
    shown = aigc_ops("data", "show", "../data/mnist", cwd=below).stdout
    assert "4500 to train on" in shown
    assert "10 classes: 0 (0), 1 (1)" in shown
    assert (folder / ".aigc_ops").is_dir()
    status = subprocess.run(
        ["git", "status", "--short", "--untracked-files=all"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not re.search(r"\.aigc_ops|data/mnist", status.stdout)


def test_nothing_is_written_over_an_existing_file(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match=r"README\.md exists, and nothing was written"):
        create_project(tmp_path, sample=False, prefect_yaml="")
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    (tmp_path / "README.md").rename(tmp_path / "notes.md")
    create_project(tmp_path, sample=False, prefect_yaml="")
    assert (tmp_path / "notes.md").read_text() == "mine"
    with pytest.raises(ConfigError, match="is a project already; work in it"):
        create_project(tmp_path, sample=False, prefect_yaml="")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p").touch()
    with pytest.raises(ConfigError, match="not a folder"):
        create_project(tmp_path / "p", sample=False, prefect_yaml="")


def test_a_path_that_no_state_directory_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"contains '\?'; choose a path without it"):
        create_project(tmp_path / "p?", sample=False, prefect_yaml="")


@pytest.mark.slow
def test_without_git_dvc_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "p"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "which", lambda _: None)
        create_project(folder, sample=True, prefect_yaml="")
    assert not (folder / ".git").exists()
    assert "no_scm = true" in (folder / ".dvc" / "config").read_text()
    assert "data that DVC pins" in aigc_ops("data", "pull", "data", cwd=folder).stdout


def test_version_names_the_commit() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+ \([0-9a-f]{40}(-dirty)?\)\n", aigc_ops("--version").stdout)


def aigc_ops(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "aigc_ops", *words], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment with the wheel, made without a byte of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    # A clone: leftovers of the working tree must not get into the wheel.
    subprocess.run(["git", "clone", "-q", str(ROOT), "clone"], cwd=folder, check=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    built = [*pip, "wheel", "-q", "--no-deps", "--wheel-dir", "dist", "./clone"]
    subprocess.run(built, cwd=folder, check=True)
    shutil.rmtree(folder / "clone")
    subprocess.run([sys.executable, "-m", "venv", "env"], cwd=folder, check=True)
    programs = folder / "env" / "bin"
    (wheel,) = (folder / "dist").glob("*.whl")
    locked = ["--constraint", str(ROOT / "constraints.txt")]
    install = [
        programs / "python",
        "-m",
        "pip",
        "install",
        "-q",
        *locked,
        f"{wheel}[image]",
        "pytest",
    ]
    subprocess.run(install, check=True)
    return programs


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_wheel_takes_a_family_of_ones_own_to_a_served_bento(
    installed: Path, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "add-a-model.md").read_text("utf-8")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(
            ("AIGC_OPS_", "PYTEST_", "PYTHON", "PREFECT_", "MLFLOW_", "BENTOML_")
        )
    }
    environment["PATH"] = f"{installed}:/usr/bin:/bin"

    def run(*words: str, cwd: Path) -> str:
        done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    commit = run("git", "-C", str(ROOT), "rev-parse", "HEAD", cwd=tmp_path).strip()
    assert commit in run("aigc-ops", "--version", cwd=tmp_path)
    run("aigc-ops", "init", "mine", "--sample", cwd=tmp_path)
    project = tmp_path / "mine"
    family = re.findall(r"```python\n(.*?)```", page, re.S)[0]
    (project / "families" / "blur.py").write_text(family, "utf-8")
    config = re.findall(r"```yaml\n(.*?)```", page, re.S)[0]
    (project / "configs" / "blur.yaml").write_text(config, "utf-8")
    run("aigc-ops", "data", "pull", "data", cwd=project)
    laws = ("python", "-m", "pytest", "--pyargs", "aigc_ops.laws", "--family", "blur")
    assert " passed" in run(*laws, cwd=project)
    quick = ("--training.steps", "50", "--evaluation.image.num-samples", "64")
    answer = json.loads(
        run("aigc-ops", "run", "blur.yaml", *quick, "--json", cwd=project / "configs")
    )
    bento = answer["bento"]
    assert bento["num_golden"] >= 8
    source = Path(bento["uri"]) / "src" / "aigc_ops" / "core" / "project_modules"
    assert (source / "families" / "blur.py").read_text("utf-8") == family
    # The family leaves the project: the Bento has its own copy.
    (project / "families" / "blur.py").unlink()
    environment["BENTOML_HOME"] = str(Path(bento["uri"]).parents[2])
    serve = [installed / "bentoml", "serve", bento["uri"], "--host", "127.0.0.1"]
    with (
        listening(serve, cwd=tmp_path, log=tmp_path / "log", **environment) as url,
        urlopen(Request(f"{url}/generate", b'{"seed": 1}'), timeout=60) as answered,
    ):
        assert answered.read().startswith(b"\x89PNG")
