"""Files in the working folder are imported neither by a command nor by what it starts."""

import json
import os
import pkgutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aigc_ops.core.import_path import isolate, package_root
from tests.conftest import ROOT, answers, eventually, free_port
from tests.flows.conftest import CONFIG, write_images

TRAP = """
import os
with open({log!r}, "a") as log:
    log.write(f"{{__name__}} in {{os.getpid()}}\\n")
raise ImportError(__name__ + " of the working folder")
"""
SCRIPT = """
import sys
from aigc_ops.__main__ import entry
if __name__ == "__main__":
    sys.exit(entry())
"""
"""As pip writes a program."""
MODULE = ("-m", "aigc_ops")


class Folder:
    """A working folder with a file in the place of every module that anybody imports."""

    def __init__(self, path: Path) -> None:
        self.path, self.log = path / "work", path / "log"
        self.path.mkdir()
        (self.path / "loaded.py").write_text("import sys; print(*sys.modules, sep='\\n')")
        loaded = self._output(sys.executable, "-m", "loaded").split()
        installed = {module.name for module in pkgutil.iter_modules()}
        names = {*sys.stdlib_module_names, *installed} - set(loaded)
        # The one that `python -m` is told to run is looked for here, whatever we do.
        for name in names - {"aigc_ops", "flows"}:
            (self.path / f"{name}.py").write_text(TRAP.format(log=str(self.log)))
        (self.path / "flows").mkdir()
        (self.path / "flows/__init__.py").touch()
        assert {"torch", "prefect", "statistics", "json"} <= names
        self.program = path / "bin/aigc-ops"
        self.program.parent.mkdir()
        self.program.write_text(SCRIPT)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def _output(self, *words: str) -> str:
        done = subprocess.run(words, cwd=self.path, capture_output=True, text=True, check=True)
        return done.stdout

    def run(self, *words: object, start: tuple[object, ...] = MODULE) -> Any:
        """The JSON answer of a command that is given here."""
        done = subprocess.run(
            [sys.executable, *map(str, (*start, *words)), "--json"],
            cwd=self.path,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{done.stderr}\n{self.imported()}"
        return json.loads(done.stdout)

    @contextmanager
    def serving(self, *words: str, start: tuple[object, ...] = MODULE) -> Iterator[None]:
        """A service that answers, and ends with 0 when it is told to."""
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, *map(str, (*start, "serve", *words)), "--port", str(port)],
            cwd=self.path,
            env=self.environment,
        )
        try:
            ready = f"http://127.0.0.1:{port}/readyz"
            assert eventually(lambda: process.poll() is not None or answers(ready))
            assert process.poll() is None, self.imported()
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()

    def imported(self) -> str:
        """The names of this folder's modules that were imported, by process."""
        return self.log.read_text() if self.log.exists() else ""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "pets.yaml"
    path.write_text(CONFIG % write_images(tmp_path / "images"))
    return path


@pytest.mark.slow
def test_training_and_a_service_import_nothing_of_the_working_folder(
    folder: Folder, config: Path
) -> None:
    checkpoint = folder.run("train", config)
    assert folder.imported() == ""
    with folder.serving(checkpoint["uri"]):
        assert folder.imported() == ""


@pytest.mark.slow
def test_a_run_imports_nothing_of_the_working_folder(folder: Folder, config: Path) -> None:
    assert folder.run("run", config, "--packaging.enabled=false")["verdict"]
    assert folder.imported() == ""


@pytest.mark.slow
def test_a_bentos_build_and_boot_and_a_followed_alias_import_nothing_of_it(
    folder: Folder, config: Path
) -> None:
    (folder.path / "aigc_ops").mkdir()
    (folder.path / "aigc_ops/__init__.py").write_text(TRAP.format(log=str(folder.log)))
    start = (folder.program,)
    answer = folder.run("run", config, start=start)
    assert answer["bento"]
    with folder.serving("models:/pets@champion", "--follow", start=start):
        pass
    assert folder.imported() == ""


def test_the_program_imports_nothing_of_it(folder: Folder) -> None:
    assert folder.run("models", start=(folder.program,)) == {"models": []}
    assert folder.imported() == ""


def test_processes_import_what_this_one_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "mine", str(ROOT)]))
    isolate()
    assert package_root() == str(ROOT)
    assert os.environ["PYTHONPATH"] == os.pathsep.join([str(ROOT), str(tmp_path / "mine")])
    assert os.environ["PYTHONSAFEPATH"] == "1"


def test_where_all_packages_are_is_not_put_before_the_standard_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr("aigc_ops.core.import_path.package_root", lambda: "/venv/site-packages")
    isolate()
    assert "PYTHONPATH" not in os.environ


@pytest.mark.slow
def test_flows_are_those_beside_this_package_even_where_others_are_named_first(
    folder: Folder,
) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(folder.path / 'mine')!r})\n"
        "from aigc_ops.core.import_path import isolate\n"
        "isolate()\n"
        "import flows.pipeline\n"
        "print(flows.pipeline.__file__)"
    )
    (folder.path / "mine").mkdir()
    (folder.path / "flows").rename(folder.path / "mine/flows")
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=folder.environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(ROOT / "flows" / "pipeline.py"), done.stderr
