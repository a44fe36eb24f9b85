"""What a later stage lacks ends a run before its first step, and before a server starts."""

import importlib.metadata
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aigc_ops.__main__ import main
from tests.conftest import free_port
from tests.flows.conftest import CONFIG, write_images


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config that could run, where starting a server or a training fails the test."""

    def fail(what: str) -> Any:
        return lambda *_, **__: pytest.fail(f"{what} was started")

    monkeypatch.setattr("flows.runtime.server.temporary_server", fail("a server"))
    monkeypatch.setattr("aigc_ops.pipeline.chain.train", fail("a training"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "pets.yaml"
    path.write_text(CONFIG % write_images(tmp_path / "images"))
    return path


def error_of(capfd: pytest.CaptureFixture[str], config: Path, *flags: str) -> str:
    assert main(["run", str(config), *flags, "--json"]) == 1
    error: str = json.loads(capfd.readouterr().out)["error"]
    return error


def test_a_run_that_lacks_nothing_gets_to_its_server(config: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match="a server was started"):
        main(["run", str(config)])


def test_rows_for_the_evaluation(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # One file a split is the layout of nanoGPT.
    for split in ("train", "val"):
        Path("texts", split).mkdir(parents=True)
        Path("texts", split, "input.txt").write_text(
            "one line\n\nanother\n" * (split == "train") + "x"
        )
    Path("gpt.yaml").write_text("data: {path: texts}\nmodel: {family: gpt}\n")
    error = error_of(capfd, Path("gpt.yaml"))
    assert "the heldout split has 1 rows and a score needs at least 2" in error


@pytest.mark.parametrize(
    ("extractor", "message"),
    [
        ("inception-v3", "the FID weights are neither at"),
        ("dinov2-vit-s-14", "dinov2_vits14_pretrain.pth"),
    ],
)
def test_weights_of_the_extractor(
    config: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    extractor: str,
    message: str,
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("aigc_ops.modalities.image.extractors.weights.urlopen", offline)
    config.write_text(config.read_text().replace(", input_size: 32", ""))
    assert message in error_of(capfd, config, f"--evaluation.image.extractor={extractor}")


def test_disk_space(
    config: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**28))
    error = error_of(capfd, config)
    assert "only 268,435,456 bytes are left on the disk of" in error
    assert "aigc-ops cache prune" in error


def test_the_registry(
    config: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    assert "does not answer" in error_of(capfd, config)


def test_the_tools_of_the_build(
    config: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version

    def without_uv(name: str) -> str:
        if name == "uv":
            raise importlib.metadata.PackageNotFoundError
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without_uv)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "BentoML builds with uv, which is not installed" in error_of(capfd, config)
    with pytest.raises(pytest.fail.Exception, match="a server was started"):
        main(["run", str(config), "--packaging.enabled=false"])
