"""What a later stage lacks ends a run before its first step."""

import importlib.metadata
import json
import logging
import shutil
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from aigc_ops.cli.main import main
from aigc_ops.core import extras
from aigc_ops.core.errors import AigcOpsError
from aigc_ops.core.state_dir import export_environment
from aigc_ops.pipeline import chain, needs
from aigc_ops.pipeline.needs import require_stages
from aigc_ops.pipeline.run_config import load_config
from aigc_ops.registry.client import connect
from flows import pipeline
from tests.conftest import free_port
from tests.flows.conftest import CONFIG, write_images


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config that could run."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "pets.yaml"
    path.write_text(CONFIG % write_images(tmp_path / "images"))
    export_environment()
    return path


def check(path: Path, **given: Any) -> None:
    config = load_config(path, given)
    require_stages(config, chain.open_data(config))


def error_of(path: Path, **given: Any) -> str:
    with pytest.raises(AigcOpsError) as error:
        check(path, **given)
    return str(error.value)


def test_a_run_that_lacks_nothing_passes(config: Path) -> None:
    check(config)


def test_a_run_asks_before_it_validates_and_trains(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*_: object) -> None:
        raise AigcOpsError("something is lacking")

    monkeypatch.setattr(pipeline, "require_stages", lacking)
    monkeypatch.setattr(pipeline, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(chain, "validate_stage", lambda *_, **__: pytest.fail("it validated"))
    with pytest.raises(AigcOpsError, match="something is lacking"):
        pipeline.run_chain(load_config(config))


def test_rows_for_the_evaluation(config: Path) -> None:
    # One file a split is the layout of nanoGPT.
    for split in ("train", "val"):
        Path("texts", split).mkdir(parents=True)
        Path("texts", split, "input.txt").write_text(
            "one line\n\nanother\n" * (split == "train") + "x"
        )
    Path("gpt.yaml").write_text("data: {path: texts}\nmodel: {family: gpt}\n")
    error = error_of(Path("gpt.yaml"))
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
    monkeypatch: pytest.MonkeyPatch,
    extractor: str,
    message: str,
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("aigc_ops.modalities.image.extractors.weights.urlopen", offline)
    config.write_text(config.read_text().replace(", input_size: 32", ""))
    assert message in error_of(config, evaluation={"image": {"extractor": extractor}})


def test_disk_space(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**28))
    error = error_of(config)
    assert "only 268,435,456 bytes are left on the disk of" in error
    assert "aigc-ops cache prune" in error


def test_the_registry(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    assert "does not answer" in error_of(config)


@pytest.mark.parametrize(("status", "code"), [(401, "UNAUTHENTICATED"), (403, "PERMISSION_DENIED")])
@pytest.mark.parametrize("refused", ["experiments", "experiments/delete", "registered-models"])
def test_credentials_of_the_registry(
    config: Path, monkeypatch: pytest.MonkeyPatch, status: int, code: str, refused: str
) -> None:
    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            experiment = {"experiment_id": "1", "name": "aigc-ops", "lifecycle_stage": "active"}
            if path == "/health":
                self.answer(200, {})
            elif refused == "experiments":
                self.answer(status, {"error_code": code, "message": "no entry"})
            else:
                self.answer(200, {"experiment": experiment})

        def do_DELETE(self) -> None:
            if refused in self.path or refused == "experiments/delete":
                self.answer(status, {"error_code": code, "message": "no entry"})
            else:
                self.answer(200, {})

        do_POST = do_DELETE

        def answer(self, number: int, content: object) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(number)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        error = error_of(config)
        server.shutdown()
    assert "accepts your credentials" in error
    assert "no entry" in error


def test_the_registry_is_unchanged_by_the_check(config: Path) -> None:
    client = connect()
    client.create_registered_model("pets", tags={"kept": "1"})
    before = client.get_registered_model("pets")
    check(config)
    after = client.get_registered_model("pets")
    assert (after.tags, after.last_updated_timestamp) == (
        before.tags,
        before.last_updated_timestamp,
    )


def test_a_missing_package_of_the_evaluation(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "_is_installed", lambda package: package != "torch-fidelity")
    assert "evaluations of images need torch-fidelity; run: pip install" in error_of(config)


def test_every_stage_with_needs_is_checked(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    for stage in needs.NEEDS:
        monkeypatch.setitem(needs.NEEDS, stage, lambda *_, stage=stage: asked.append(stage))
    check(config)
    assert asked == ["train", "evaluate", "register", "package"]


def test_repeats_leave_too_few_rows(config: Path) -> None:
    for split, texts in {"train": ["one", "two"], "val": ["x", "x"]}.items():
        Path("texts", split).mkdir(parents=True)
        Path("texts", split, "input.txt").write_text("\n".join(texts))
    Path("gpt.yaml").write_text("data: {path: texts}\nmodel: {family: gpt}\n")
    assert "the heldout split has 1 rows" in error_of(Path("gpt.yaml"))


def test_one_long_document_a_split_is_enough(config: Path) -> None:
    for split in ("train", "val"):
        Path("texts", split).mkdir(parents=True)
        words = " ".join(f"{split}{index}" for index in range(2000))
        Path("texts", split, "input.txt").write_text(words)
    Path("gpt.yaml").write_text("data: {path: texts}\nmodel: {family: gpt}\n")
    check(Path("gpt.yaml"))


def test_train_checks_its_own_needs_and_warns_of_the_evaluation(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(chain, "train_stage", lambda *_: pytest.fail("it trained"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**28))
    assert main(["train", str(config)]) == 1
    assert "only 268,435,456 bytes are left" in capsys.readouterr().err
    monkeypatch.undo()

    def lacking(*_: object) -> None:
        raise AigcOpsError("something is lacking")

    monkeypatch.setitem(needs.NEEDS, "evaluate", lacking)
    monkeypatch.setattr(chain, "train_stage", lacking)
    assert main(["train", str(config)]) == 1
    assert "could not be evaluated: something is lacking" in capsys.readouterr().err


def test_the_tools_of_the_build(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version

    def without_uv(name: str) -> str:
        if name == "uv":
            raise importlib.metadata.PackageNotFoundError
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without_uv)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "BentoML builds with uv, which is not installed" in error_of(config)
    check(config, packaging={"enabled": False})
