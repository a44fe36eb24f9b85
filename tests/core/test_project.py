"""The project: found from any folder below it, refused where another user may have written it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aigc_ops.core import project_modules
from aigc_ops.core.errors import ConfigError
from aigc_ops.core.project import PROJECT_FILE, project_root
from aigc_ops.core.state_dir import home as state_dir
from aigc_ops.interfaces.discovery import family_module, family_names, find_modality
from aigc_ops.models import family_type
from aigc_ops.operations.new_project import TEMPLATE


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project; the working folder is two levels below it."""
    folder = tmp_path / "project"
    (folder / "families").mkdir(parents=True)
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / PROJECT_FILE).touch()
    monkeypatch.chdir(folder / "deep" / "er")
    for name in [name for name in sys.modules if name.startswith(f"{project_modules.__name__}.")]:
        del sys.modules[name]
    return folder


def test_the_state_directory_is_that_of_the_project(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIGC_OPS_HOME")
    assert project_root() == project
    assert state_dir() == project / ".aigc_ops"
    monkeypatch.chdir(project.parent)
    assert project_root() is None
    assert state_dir() == project.parent / ".aigc_ops"


def test_the_example_is_a_family_under_the_name_of_its_copy(project: Path) -> None:
    example = (TEMPLATE / "families" / "_example.py").read_text()
    (project / "families" / "_example.py").write_text(example)
    assert "_example" not in family_names()
    (project / "families" / "blur.py").write_text(example)
    assert "blur" in family_names()
    assert family_type("blur").config_type().family == "blur"


def test_the_example_is_that_of_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "add-a-model.md").read_text()
    assert (TEMPLATE / "families" / "_example.py").read_text() in page


def test_a_name_of_two_sources_is_refused_with_both(project: Path) -> None:
    (project / "families" / "gan.py").touch()
    with pytest.raises(ConfigError, match=rf"'gan': aigc_ops\.models and {project}/families"):
        family_module("gan")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_module", r"ModuleNotFoundError: No module .*toy\.py, line 1"),
        ("x = 1\ndef f(:", r"SyntaxError: .*toy\.py, line 2"),
        ("1 / 0", r"ZeroDivisionError: .*toy\.py, line 1"),
    ],
)
def test_a_family_that_cannot_be_imported_is_named_with_its_line(
    code: str, message: str, project: Path
) -> None:
    (project / "families" / "toy.py").write_text(code)
    with pytest.raises(ConfigError, match=f"families/toy cannot be imported: {message}"):
        family_module("toy")


def test_a_folder_without_a_modality_is_named(project: Path) -> None:
    for name, code in (("empty", ""), ("other", "class MODALITY:\n    name = 'sound'")):
        folder = project / "modalities" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(code)
        with pytest.raises(ConfigError, match=f"'{name}' is not an object MODALITY with the name"):
            find_modality(name)


def test_a_project_that_others_may_write_to_is_refused_until_it_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = project / "families" / "toy.py"
    toy.touch()
    for path in (project, project / PROJECT_FILE, project / "families", toy):
        mode = path.stat().st_mode
        path.chmod(mode | 0o002)
        with pytest.raises(ConfigError, match=f"{path}: may be changed by every user"):
            project_root()
        path.chmod(mode)
    assert project_root() == project
    project.chmod(0o777)
    monkeypatch.setenv("AIGC_OPS_PROJECT", str(project))
    assert project_root() == project
    monkeypatch.setenv("AIGC_OPS_PROJECT", str(project.parent))
    with pytest.raises(ConfigError, match=f"no {PROJECT_FILE}"):
        project_root()


def test_code_planted_in_a_folder_like_tmp_is_never_imported(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.chmod(0o1777)
    for working in (project, project / "deep"):
        monkeypatch.chdir(working)
        with pytest.raises(ConfigError, match="may be changed by every user"):
            family_names()
    project.chmod(0o777)
    monkeypatch.chdir(project)  # chosen by the user
    assert project_root() == project


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_project_of_another_user_is_refused_from_below(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chown(project / PROJECT_FILE, 12345, 12345)
    with pytest.raises(ConfigError, match="belongs to another user"):
        project_root()
    monkeypatch.chdir(project)  # a mounted folder in a container
    assert project_root() == project


@pytest.mark.slow
def test_a_child_process_elsewhere_belongs_to_the_project(project: Path, tmp_path: Path) -> None:
    code = (
        "import os, pickle\n"
        "from aigc_ops.core.state_dir import export_environment\n"
        "export_environment()\n"
        "os.chdir('/')\n"
        "from aigc_ops.models import family_type\n"
        "print(pickle.dumps(family_type('blur')).hex())"
    )
    example = (TEMPLATE / "families" / "_example.py").read_text()
    (project / "families" / "blur.py").write_text(example)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    load = f"import pickle; print(pickle.loads(bytes.fromhex('{done.stdout.strip()}')))"
    other = subprocess.run(
        [sys.executable, "-c", load],
        cwd=tmp_path,
        env={**os.environ, "AIGC_OPS_PROJECT": str(project)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == f"<class '{project_modules.__name__}.families.blur.Blur'>"
