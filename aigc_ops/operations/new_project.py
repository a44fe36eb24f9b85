"""Create a project: configs, folders for families and modalities, settings, and sample data."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from aigc_ops.core.errors import ConfigError
from aigc_ops.core.import_path import package_root
from aigc_ops.core.project import PROJECT_FILE

TEMPLATE = Path(__file__).parent / "template"
SAMPLE_CONFIGS = ("smoke", "mnist-gan", "mnist-vae", "dialogue-gpt")
DVC_CONFIG = "[core]\n    analytics = false\n    check_update = false\n"
DVC_IGNORED = "/config.local\n/tmp\n/cache\n"


def create_project(folder: Path, *, sample: bool, prefect_yaml: str) -> list[str]:
    """Write a new project into a folder; return the relative paths of its files.

    With `sample`, the sample data's pin and its DVC remote are included. A git repository is
    created unless the folder is inside one. Raises ConfigError if a file exists already.
    """
    folder = folder.expanduser().absolute()
    files = _files(folder.name, sample=sample, prefect_yaml=prefect_yaml)
    if unfit := next((mark for mark in "?#%" if mark in str(folder)), None):
        raise ConfigError(f"{folder} contains {unfit!r}; choose a path without it")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: not a folder; give another name")
    if (folder / PROJECT_FILE).exists():
        raise ConfigError(f"{folder} is a project already; work in it, or give a new folder")
    if existing := sorted(name for name in files if (folder / name).exists()):
        raise ConfigError(
            f"{folder / existing[0]} exists, and nothing was written; give a new folder, or move "
            f"{'it' if len(existing) == 1 else f'the {len(existing)} existing files'} away"
        )
    try:
        # The mark is written last: without it the folder of an interrupted call is no project.
        for name, content in sorted(files.items(), key=lambda item: item[0] == PROJECT_FILE):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror or error})") from error
    if not _init_git(folder):
        # DVC rejects a folder outside a git repository without this setting.
        (folder / ".dvc" / "config").write_bytes(
            files[".dvc/config"].replace(b"[core]\n", b"[core]\n    no_scm = true\n")
        )
    return sorted(files)


def _files(project: str, *, sample: bool, prefect_yaml: str) -> Mapping[str, bytes]:
    """Return the content of each file by its path in the project."""
    files = {
        path.relative_to(TEMPLATE).as_posix(): path.read_bytes()
        for path in sorted(TEMPLATE.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    files[".gitignore"] = files.pop("gitignore")  # by its real name it would hide files of ours
    files["README.md"] = files["README.md"].replace(b"PROJECT", project.encode())
    files["prefect.yaml"] = prefect_yaml.encode()
    files[".dvcignore"] = b".aigc_ops\n.venv\n"
    files[".dvc/.gitignore"] = DVC_IGNORED.encode()
    files[".dvc/config"] = DVC_CONFIG.encode()
    if sample:
        files |= _sample_files()
    return files


def _sample_files() -> dict[str, bytes]:
    """Return the sample configs, the pin of the sample data and the files of its DVC remote."""
    # In a wheel they are beside the template; in a checkout they are those at its top.
    bundled = Path(__file__).parent / "sample"
    root = bundled if bundled.is_dir() else Path(package_root())
    paths = [root / "configs" / f"{name}.yaml" for name in SAMPLE_CONFIGS]
    paths += [root / "data.dvc", *sorted((root / "dvc-remote").rglob("*"))]
    files = {p.relative_to(root).as_posix(): p.read_bytes() for p in paths if p.is_file()}
    remote = "[core]\n    remote = embedded\n", "['remote \"embedded\"']\n    url = ../dvc-remote\n"
    config = DVC_CONFIG.replace("[core]\n", remote[0]) + remote[1]
    return {**files, ".dvc/config": config.encode()}


def _init_git(folder: Path) -> bool:
    """Create a git repository unless the folder is in one; return False without git."""
    if shutil.which("git") is None:
        return False
    inside = ["git", "-C", str(folder), "rev-parse", "--is-inside-work-tree"]
    if subprocess.run(inside, capture_output=True, check=False).returncode == 0:
        return True
    created = ["git", "-C", str(folder), "init", "--quiet"]
    return subprocess.run(created, capture_output=True, check=False).returncode == 0
