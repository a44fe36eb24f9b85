"""Packages of extras: what is missing is named with the command that installs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aigc_ops.core import extras
from aigc_ops.core.errors import ConfigError
from tests.conftest import ROOT

WITHOUT = "import sys; sys.modules['{}'] = None; from aigc_ops.__main__ import entry; entry()"


def run(module: str, *words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A command of a process that cannot import a module."""
    code = WITHOUT.format(module)
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=cwd,
        env=os.environ,
        capture_output=True,
        text=True,
    )


def test_the_environment_of_the_tests_has_both_extras() -> None:
    assert extras.missing("image") == extras.missing("text") == []


def test_a_text_model_without_its_extra_is_answered_with_the_command(tmp_path: Path) -> None:
    config = tmp_path / "configs" / "text.yaml"
    config.parent.mkdir()
    config.write_text("data: {path: d}\nmodel: {family: gpt}")
    done = run("tokenizers", "run", str(config))
    assert done.returncode == 2
    assert "gpt: tokenizers is not installed; run: pip install 'aigc-ops[text]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_other_families_are_offered_without_it() -> None:
    code = (
        "import sys, warnings; sys.modules['tokenizers'] = None; warnings.simplefilter('ignore')\n"
        "from flows.deployments import FLOWS; print(*FLOWS)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["gan", "vae", "review", "rollback", "guard"], done.stderr


def test_images_are_not_trained_before_their_scores_can_be_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extras, "_is_installed", lambda package: package != "torch-fidelity")
    message = r"evaluations of images need torch-fidelity; run: pip install 'aigc-ops\[image\]'"
    with pytest.raises(ConfigError, match=message):
        extras.require_extra("image", "evaluations of images")


def test_a_module_of_no_extra_gets_no_advice() -> None:
    assert extras.install_advice(ModuleNotFoundError("no", name="no_such_module")) is None
