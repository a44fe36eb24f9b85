"""What a config names is looked at before a run starts anything."""

import json
import os
from pathlib import Path

import pytest

from aigc_ops import input_paths
from aigc_ops.__main__ import main
from aigc_ops.data import DataConfig
from aigc_ops.input_paths import _require_data
from tests.flows.conftest import CONFIG, write_images


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config in a working folder of its own, where starting a server fails the test."""

    def start() -> None:
        pytest.fail("a server was started")

    monkeypatch.setattr("flows.server.temporary_server", start)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "pets.yaml"
    path.write_text(CONFIG % write_images(tmp_path / "images"))
    return path


def error_of(capfd: pytest.CaptureFixture[str], *argv: object, code: int = 1) -> str:
    """The error of a command, which standard error shows once."""
    assert main([*map(str, argv), "--json"]) == code
    output, shown = capfd.readouterr()
    error: str = json.loads(output)["error"]  # the one line on standard output
    assert shown.count(error) == 1
    assert "Flow run" not in shown
    return error


@pytest.mark.parametrize(
    ("flag", "value", "code", "message"),
    [
        ("data.path", "absent", 1, "data.path: absent does not exist; looked in {here}"),
        ("data.path", "/absent", 1, "data.path: /absent does not exist"),
        ("data.path", "empty", 1, "empty is not a dataset: no Parquet, no images and no text"),
        ("data.path", "pets.yaml", 1, "pets.yaml: expected a folder, or a file ending in"),
        ("data.modality", "text", 1, "no Parquet|data.modality is text, but this is image data"),
        ("training.init_from", "absent", 2, "training.init_from: absent does not exist; looked"),
        ("training.init_from", "models:/absent@champion", 1, "no model is registered"),
        ("training.init_from", "models:/absent", 1, "names no version"),
        ("evaluation.general_path", "absent", 2, "evaluation.general_path: absent does not"),
        ("evaluation.inception_weights", "absent", 2, "inception_weights: absent does not exist"),
    ],
)
def test_a_run_that_cannot_work_starts_no_server(
    config: Path,
    capfd: pytest.CaptureFixture[str],
    flag: str,
    value: str,
    code: int,
    message: str,
) -> None:
    Path("empty").mkdir()
    error = error_of(capfd, "run", config, f"--{flag}={value}", code=code)
    assert any(each.format(here=Path.cwd()) in error for each in message.split("|"))


def test_a_pretrained_network_is_a_path_or_a_pinned_one_of_the_hub(
    config: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("notes.txt").write_text("one\ntwo\nthree\n")
    Path("gpt.yaml").write_text("data: {path: notes.txt}\nmodel: {family: gpt}\n")
    error = error_of(capfd, "run", "gpt.yaml", "--model.pretrained=absent", code=2)
    assert "give a local Hugging Face folder, a GGUF file, or OWNER/NAME@COMMIT" in error
    flag = f"--model.pretrained=owner/name@{'0' * 40}"
    with pytest.raises(pytest.fail.Exception, match="a server was started"):
        main(["run", "gpt.yaml", flag])


def test_a_validation_asks_for_nothing_but_the_data(config: Path) -> None:
    flags = ("--training.init_from=absent", "--evaluation.general_path=absent")
    assert main(["validate", str(config), *flags]) == 0


def test_of_large_data_the_content_is_left_to_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = []
    monkeypatch.setattr(input_paths, "find_layout", lambda root, _: listed.append(root.name))
    monkeypatch.setattr(input_paths, "FEW", 10)
    for num in (4, 40):
        _require_data(DataConfig(path=str(write_images(tmp_path / str(num), num=num))))
    assert listed == ["4"]


@pytest.mark.parametrize("make", ["loop", "unreadable"])
def test_no_error_about_a_folder_that_is_no_dataset_advises_to_change_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, make: str
) -> None:
    folder = tmp_path / "etc"
    (folder / "xdg").mkdir(parents=True)
    if make == "loop":
        (folder / "xdg" / "user").symlink_to(folder)
    else:
        real = os.scandir

        def refuse(path: object) -> object:
            if str(path).endswith("xdg"):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        monkeypatch.setattr("os.scandir", refuse)
    error = error_of(capfd, "data", "show", folder)
    assert error.startswith(f"{folder} is not a dataset: {folder}/xdg")
    assert not {"remove", "delete", "mend", "rename"} & set(error.split())
