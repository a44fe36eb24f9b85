"""What a config names is looked at before a run starts anything."""

import json
import os
import shutil
from pathlib import Path

import pytest

from aigc_ops.__main__ import main
from aigc_ops.core.errors import ConfigError, DataError
from aigc_ops.data import DataConfig
from aigc_ops.formats.stat_digest import quick_digest
from aigc_ops.pipeline import inputs
from aigc_ops.pipeline.chain import config_digest
from aigc_ops.pipeline.inputs import (
    PROJECT_MARKS,
    _require_data,
    absent_here,
    find_project,
    locate,
    require_inputs,
)
from aigc_ops.pipeline.run_cache import RunRecord
from aigc_ops.pipeline.run_config import RunConfig, load_config, read_yaml
from aigc_ops.provenance.code_version import code_digest
from tests.flows.conftest import CONFIG, write_images


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config in a working folder of its own, where starting a server fails the test."""

    def start() -> None:
        pytest.fail("a server was started")

    monkeypatch.setattr("flows.runtime.server.temporary_server", start)
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
        ("data.path", "imagez", 1, "imagez does not exist; looked in {here}; did you mean images?"),
        ("data.path", "empty", 1, "empty is not a dataset: no Parquet, no images and no text"),
        ("data.path", "pets.yaml", 1, "pets.yaml: expected a folder, or a file ending in"),
        (
            "data.path",
            "a.txt",
            1,
            "a gan learns images, but a.txt holds texts; set model.family to gpt",
        ),
        ("data.modality", "text", 1, "no Parquet|data.modality is text, but this is image data"),
        ("training.init_from", "absent", 2, "training.init_from: absent does not exist; looked"),
        ("training.init_from", "models:/absent@champion", 1, "no model is registered"),
        ("training.init_from", "models:/absent", 1, "is not a model URI"),
        (
            "evaluation.text.general_path",
            "absent",
            2,
            "general_path: absent does not",
        ),
        (
            "evaluation.image.inception_weights",
            "absent",
            2,
            "inception_weights: absent does not",
        ),
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
    Path("a.txt").write_text("one\ntwo\n")
    error = error_of(capfd, "run", config, f"--{flag}={value}", code=code)
    assert any(each.format(here=Path.cwd()) in error for each in message.split("|"))


def test_a_pretrained_network_is_a_path_or_a_pinned_one_of_the_hub(
    config: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("notes.txt").write_text("".join(f"note {index}\n" for index in range(60)))
    Path("gpt.yaml").write_text("data: {path: notes.txt}\nmodel: {family: gpt}\n")
    error = error_of(capfd, "run", "gpt.yaml", "--model.pretrained=absent", code=2)
    assert "give a local Hugging Face folder, a GGUF file, or OWNER/NAME@COMMIT" in error
    flag = f"--model.pretrained=owner/name@{'0' * 40}"
    with pytest.raises(pytest.fail.Exception, match="a server was started"):
        main(["run", "gpt.yaml", flag])


def test_a_validation_asks_for_nothing_but_the_data(config: Path) -> None:
    flags = ("--training.init_from=absent", "--evaluation.text.general_path=absent")
    assert main(["validate", str(config), *flags]) == 0


def test_of_large_data_the_content_is_left_to_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = []
    monkeypatch.setattr(inputs, "find_layout", lambda root, *_: listed.append(root.name))
    monkeypatch.setattr(inputs, "FEW", 10)
    for num in (4, 40):
        _require_data(DataConfig(path=str(write_images(tmp_path / str(num), num=num))), None)
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


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that holds a dataset and a config; the working folder is another."""
    folder = tmp_path / "project"
    write_images(folder / "images", num=4)
    (folder / ".git").mkdir()
    (folder / "configs").mkdir()
    (folder / "configs/pets.yaml").write_text("data: {path: images}\nmodel: {family: gan}\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


def load(project: Path, **given: object) -> RunConfig:
    return load_config(project / "configs/pets.yaml", given)


@pytest.mark.parametrize("mark", PROJECT_MARKS)
def test_the_nearest_folder_with_a_mark_is_the_project(tmp_path: Path, mark: str) -> None:
    file = tmp_path / "outer/inner/configs/run.yaml"
    file.parent.mkdir(parents=True)
    assert find_project(file) == file.parent
    (tmp_path / "outer" / mark).touch()
    assert find_project(file) == tmp_path / "outer"
    (tmp_path / "outer/inner" / mark).mkdir()
    assert find_project(file) == tmp_path / "outer/inner"


def test_a_path_in_a_file_works_from_any_folder(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(project)
    assert config.data.path == str(project / "images")
    require_inputs(config, project / "configs/pets.yaml", {})
    monkeypatch.chdir(project)
    assert load_config(Path("configs/pets.yaml")).data.path == "images"  # the same run as ever
    monkeypatch.chdir(project / "configs")
    assert config_digest(load_config(Path("pets.yaml"))) == config_digest(config)


def test_what_both_folders_hold_is_read_from_the_working_folder_with_a_warning(
    project: Path,
) -> None:
    Path("images").symlink_to(project / "images")
    assert load(project).data.path == "images"  # the very same: no warning
    Path("images").unlink()
    write_images(Path("images"), num=2)
    places = rf"working folder \({Path.cwd()}/images\), .* project \({project}/images\)"
    with pytest.warns(UserWarning, match=f"data.path: images is in the {places}"):
        assert load(project).data.path == "images"


def test_a_flag_names_a_path_of_the_working_folder_alone(project: Path) -> None:
    given = {"data": {"path": "images"}}
    config = load(project, **given)
    assert config.data.path == "images"
    with pytest.raises(DataError) as refusal:
        require_inputs(config, project / "configs/pets.yaml", given)
    assert str(refusal.value) == f"data.path: images does not exist; looked in {Path.cwd()}"


def test_an_error_names_both_places(project: Path) -> None:
    (project / "images").rename(project / "moved")
    with pytest.raises(DataError) as refusal:
        require_inputs(load(project), project / "configs/pets.yaml", {})
    places = f"{Path.cwd()} and in {project}"
    assert str(refusal.value) == f"data.path: images does not exist; looked in {places}"


def test_data_that_a_project_pins_is_to_be_fetched_there(project: Path) -> None:
    (project / "images").rename(project / "moved")
    pin = "outs:\n- md5: 0123456789abcdef0123456789abcdef.dir\n  path: images\n"
    (project / "images.dvc").write_text(pin)
    with pytest.raises(DataError, match=r"aigc-ops data pull \.\./project/images"):
        require_inputs(load(project), project / "configs/pets.yaml", {})


def test_every_setting_that_names_an_input_is_looked_up(project: Path) -> None:
    (project / "weights.safetensors").touch()
    (project / "gpt").mkdir()
    text = """
    data: {path: images}
    model: {family: gpt, pretrained: gpt}
    training: {init_from: "models:/digits@champion"}
    evaluation:
      text: {general_path: nowhere}
      image:
        inception_weights: /weights.safetensors
        backbone: {weights: weights.safetensors}
    """
    file = project / "configs/gpt.yaml"
    file.write_text(text)
    config = load_config(file)
    assert config.model.pretrained == str(project / "gpt")
    assert config.training.init_from == "models:/digits@champion"
    assert config.evaluation.text.general_path == "nowhere"
    assert config.evaluation.image.inception_weights == "/weights.safetensors"
    assert config.evaluation.image.backbone.weights == str(project / "weights.safetensors")
    assert absent_here(config, read_yaml(file), {"model": {"pretrained": "other"}}) == [
        str(Path.cwd() / name) for name in ("images", "weights.safetensors")
    ]


def test_a_run_is_not_reused_once_the_working_folder_holds_what_the_project_held(
    project: Path,
) -> None:
    config = load(project)
    record = RunRecord.model_construct(
        code_digest=code_digest(),
        data_path=config.data.path,
        data_digest=quick_digest(config.data.path),
        inputs={},
        absent=absent_here(config, read_yaml(project / "configs/pets.yaml"), {}),
    )
    assert record.is_current()
    Path("images").mkdir()
    assert not record.is_current()


def test_a_backbones_file_names_its_weights_likewise(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = project / "configs/net.yaml"
    file.write_text("{weights: net.pt2, architecture: null}")
    score = ("score", project / "images", project / "images", "--extractor", "backbone")
    error = error_of(capfd, *score, "--backbone", file, code=2)
    places = f"{Path.cwd()} and in {project}"
    assert error == f"backbone.weights: net.pt2 does not exist; looked in {places}"


def test_a_backbones_weights_are_those_of_the_project(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (project / "net.pt2").write_bytes(b"no program")
    file = project / "configs/net.yaml"
    file.write_text("{weights: net.pt2}")
    other = shutil.copytree(project / "images", project / "other")
    next(path for path in other.rglob("*") if path.is_file()).unlink()
    score = ("score", project / "images", other, "--extractor", "backbone")
    assert str(project / "net.pt2") in error_of(capfd, *score, "--backbone", file)


def test_a_command_below_the_pinned_data_reads_that_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = tmp_path / "data" / "images" / "cat"
    below.mkdir(parents=True)
    (tmp_path / "aigc-ops.toml").touch()
    (tmp_path / "data.dvc").write_text("outs:\n- md5: 0.dir\n  path: data\n")
    file = tmp_path / "configs" / "images.yaml"
    for folder in (below, below.parent, below.parent.parent):
        monkeypatch.chdir(folder)
        located = locate("data.path", "data/images", file)
        assert located == str(tmp_path / "data" / "images")


def test_a_config_of_the_project_is_suggested_from_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "deep").mkdir()
    (tmp_path / "aigc-ops.toml").touch()
    (tmp_path / "configs" / "images.yaml").touch()
    monkeypatch.chdir(tmp_path / "deep")
    with pytest.raises(ConfigError, match=r"did you mean \.\./configs/images\.yaml\?"):
        read_yaml(Path("configs/images.yaml"))
