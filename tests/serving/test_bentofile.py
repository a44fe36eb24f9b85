"""bentofile.yaml holds what the service imports, at the versions of the lock."""

import ast
import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name

from aigc_ops.core.artifacts import ModelVersion
from aigc_ops.core.errors import ConfigError, PackagingError
from aigc_ops.core.project import PROJECT_FILE
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.models.gan import Gan
from aigc_ops.provenance.added_code import BENTOFILE
from aigc_ops.serving.bento.packaging import _stage_code
from aigc_ops.serving.bento.requirements import DIRECT, requirement_files
from aigc_ops.serving.bento.store import (
    REQUIREMENTS,
    bento_version,
    code_digest,
    code_files,
    tag_name,
)
from tests.conftest import ROOT
from tests.serving.conftest import registered

TEXT = find_modality("text")
SERVED_PARTS = ("codec", "requests")
"""Parts of a modality that a service uses; the others are imported by stages alone."""


def imported_by(files: list[Path]) -> set[str]:
    """Full names of all modules that the files import anywhere, also inside functions."""
    names: set[str] = set()
    for path in (path for path in files if path.suffix == ".py"):
        is_modality = path.match("modalities/*/__init__.py")
        tree = ast.parse(path.read_text())
        for block in tree.body:
            if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
                block.body = []
        for node in ast.walk(tree):
            module = getattr(node, "module", None) or ""
            if is_modality and module.rpartition(".")[2] not in (*SERVED_PARTS, "config"):
                continue
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module)
    return names


def test_the_bento_holds_every_module_of_ours_that_it_imports() -> None:
    files = code_files(ROOT)
    assert ROOT / "aigc_ops" / "serving" / "runtime" / "service.py" in files
    for name in imported_by(files):
        if name.split(".")[0] == "aigc_ops":
            base = ROOT.joinpath(*name.split("."))
            assert {base.with_suffix(".py"), base / "__init__.py"} & set(files), name


def test_the_bento_requires_every_package_that_it_imports() -> None:
    distributions = importlib.metadata.packages_distributions()
    direct = {*DIRECT, *find_modality("image").served_packages, *TEXT.served_packages}
    for name in {name.split(".")[0] for name in imported_by(code_files(ROOT))}:
        if name not in {*sys.stdlib_module_names, "aigc_ops"}:
            assert set(map(canonicalize_name, distributions[name])) & direct, name


def test_the_bento_installs_what_the_lock_pins_and_nothing_else() -> None:
    lock = (ROOT / "constraints.txt").read_text()
    files = requirement_files(lock)
    for name, text in files.items():
        written = (ROOT / REQUIREMENTS).with_name(name).read_text()
        assert written == text, "run `python -m aigc_ops.serving.bento.requirements`"
        pins = [line for line in written.splitlines() if not line.startswith("#")]
        assert set(pins) < set(lock.splitlines())
        names = {pin.partition("==")[0] for pin in pins}
        assert names > set(DIRECT)
        assert not {"mlflow", "prefect", "dvc", "torchvision"} & names
    pins = {name: set(text.splitlines()) for name, text in files.items()}
    assert (
        pins["requirements.txt"] == pins["requirements-image.txt"] | pins["requirements-text.txt"]
    )


def test_a_bento_of_images_has_no_language_libraries(gan: Gan, tmp_path: Path) -> None:
    context = tmp_path / "context"
    _stage_code(ROOT, context, modality="image", model_tag="toy:v1")
    pins = (context / REQUIREMENTS).read_text().splitlines()[2:]
    assert len(pins) <= 76
    names = {pin.partition("==")[0] for pin in pins}
    assert not set(TEXT.served_packages) & names
    assert [path.name for path in (context / REQUIREMENTS).parent.glob("*.txt")] == [
        REQUIREMENTS.name
    ]
    # The service runs on the Bento's own code where they cannot be imported.
    folder = registered(gan, tmp_path / "digits")
    absent = {package.replace("-", "_") for package in TEXT.served_packages}
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
        "from pathlib import Path\n"
        "from aigc_ops.serving.runtime.model_runner import load_served\n"
        f"served = load_served(Path({str(folder)!r}), name='m', version='1', expected=None)\n"
        "requests = served.build_requests(served.call_type.model_validate({'num': 2}))\n"
        "print(served.respond(requests).status_code)"
    )
    # A project in the working folder is not part of the Bento.
    other = tmp_path / "project" / "families" / "gan.py"
    other.parent.mkdir(parents=True)
    other.write_text("1 / 0")
    (tmp_path / "project" / PROJECT_FILE).touch()
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path / "project",
        env={**os.environ, "PYTHONPATH": str(context)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "200\n", done.stderr


def test_stages_and_their_libraries_stay_out_of_the_bento() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in code_files(ROOT)}
    folders = {name.split("/")[1] for name in names if name.count("/") > 1}
    assert {"models", "serving"} < folders
    stages = {"data", "training", "evaluation", "registry", "promotion", "pipeline", "cli"}
    assert not stages & folders
    libraries = {name.split(".")[0] for name in imported_by(code_files(ROOT))}
    assert not {"mlflow", "prefect", "dvc", "great_expectations", "torchvision"} & libraries


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what bentofile.yaml speaks of, and a file that it leaves out."""
    for path in [ROOT / BENTOFILE, *code_files(ROOT), ROOT / "aigc_ops" / "core" / "state_dir.py"]:
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    (tmp_path / "notes.txt").write_text("private")
    return tmp_path


def test_bentoml_build_by_hand_takes_the_same_files(checkout: Path, home: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "bentoml", "build", "--version", "hand", "-o", "tag"],
        cwd=checkout,
        env={"BENTOML_HOME": str(home)},
        check=True,
        capture_output=True,
    )
    source = home / "bentos" / "aigc-ops" / "hand" / "src"
    taken = {p.relative_to(source) for p in source.rglob("*") if p.is_file()}
    included = {p.relative_to(checkout) for p in code_files(checkout)}
    assert taken == {Path(BENTOFILE), *included}


def test_the_code_digest_follows_the_included_files_alone(checkout: Path) -> None:
    before = code_digest(checkout)
    (checkout / "notes.txt").write_text("changed")
    (checkout / "aigc_ops" / "core" / "state_dir.py").write_text("changed")
    assert code_digest(checkout) == before == code_digest(ROOT)
    with (checkout / "aigc_ops" / "sampling" / "sampler.py").open("a") as file:
        file.write("\n")
    assert code_digest(checkout) != before


def test_a_pattern_without_files_is_named(checkout: Path) -> None:
    (checkout / "aigc_ops" / "serving" / "runtime" / "model_runner.py").unlink()
    with pytest.raises(PackagingError, match=r"model_runner\.py names no file"):
        code_files(checkout)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a family, in which the test works."""
    folder = tmp_path / "project"
    (folder / "families").mkdir(parents=True)
    (folder / "families" / "toy.py").write_text("TOY = 1\n")
    (folder / PROJECT_FILE).write_text('requirements = ["pyyaml"]\n')
    monkeypatch.chdir(folder)
    return folder


def test_a_projects_code_and_settings_are_part_of_the_digest(project: Path) -> None:
    digests = [code_digest(ROOT)]
    for name, text in (
        ("families/toy.py", "TOY = 2\n"),
        (BENTOFILE, "labels: {team: a}\n"),
        (PROJECT_FILE, ""),
    ):
        (project / name).write_text(text)
        digests.append(code_digest(ROOT))
    assert len(set(digests)) == 4
    (project / "notes.txt").write_text("not in the Bento")
    assert code_digest(ROOT) == digests[-1]


def test_a_projects_settings_are_merged_into_the_bento(project: Path, tmp_path: Path) -> None:
    (project / "prompts").mkdir()
    (project / "prompts" / "a.txt").write_text("Hello")
    (project / BENTOFILE).write_text(
        "labels: {team: a}\ndescription: Ours\ninclude: [prompts/*.txt]\n"
        "python: {extra_index_url: [file:///wheels]}\nenvs: [{name: X, value: '1'}]\n"
    )
    context = tmp_path / "context"
    _stage_code(ROOT, context, modality="image", model_tag="toy:v1")
    content = yaml.safe_load((context / BENTOFILE).read_text())
    assert content["labels"] == {"project": "aigc-ops", "team": "a"}
    assert content["description"] == "Ours"
    assert content["envs"] == [{"name": "X", "value": "1"}]
    assert content["docker"]["distro"] == "debian"
    assert content["python"]["extra_index_url"] == ["file:///wheels"]
    for name in ("prompts/a.txt", "aigc_ops/core/project_modules/families/toy.py"):
        assert name in content["include"]
        assert (context / name).is_file()
    pins = (context / content["python"]["requirements_txt"]).read_text().splitlines()
    assert pins[-1] == f"pyyaml=={importlib.metadata.version('pyyaml')}"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (BENTOFILE, "service: other", "service cannot be set here"),
        (BENTOFILE, "python: {packages: [einops]}", r"python\.packages cannot be set here"),
        (BENTOFILE, "include: [no/*.txt]", r"no/\*\.txt names no file"),
        (BENTOFILE, "a: [", "not readable YAML"),
        (PROJECT_FILE, 'requirements = ["no-such-package"]', "no-such-package is required, but"),
        (PROJECT_FILE, 'requirements = ["a b"]', "'a b' is not a requirement"),
        (PROJECT_FILE, 'requirements = "einops"', "requirements is not a list"),
        (PROJECT_FILE, "required = []", "required is not a setting"),
        (PROJECT_FILE, "a = ", "not a readable TOML file"),
    ],
)
def test_wrong_settings_of_a_project_are_named(
    name: str, text: str, message: str, project: Path, tmp_path: Path
) -> None:
    (project / name).write_text(text)
    with pytest.raises((PackagingError, ConfigError), match=message):
        _stage_code(ROOT, tmp_path / "context", modality="image", model_tag="toy:v1")


def test_names_become_tags_that_bentoml_accepts_and_never_collide() -> None:
    names = [
        "mnist-gan",
        "My GAN",
        "my gan",
        "my-gan",
        "数字",
        "数",
        "a" * 64,
        "a" * 65,
        "-x-",
        "x",
    ]
    tags = [tag_name(name) for name in names]
    assert len(set(tags)) == len(names)
    assert (tags[0], tags[-1]) == ("mnist-gan", "x")
    from bentoml import Tag

    for tag in tags:
        assert Tag(tag, "v1").name == tag


def test_another_model_or_other_code_is_another_bento() -> None:
    version = ModelVersion(name="m", version=3, run_id="r", manifest_digest="d")
    tags = {
        bento_version(version, "code"),
        bento_version(version, "other code"),
        bento_version(version.model_copy(update={"manifest_digest": "e"}), "code"),
    }
    assert len(tags) == 3
    assert all(tag.startswith("v3-") for tag in tags)
