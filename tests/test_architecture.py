"""The structure that docs/architecture.md draws is the code's own."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from types import FrameType

import pytest
from torch.optim.optimizer import register_optimizer_step_pre_hook

from aigc_ops.cli.main import main
from aigc_ops.interfaces.discovery import modality_names
from tests.conftest import ROOT

PACKAGE = ROOT / "aigc_ops"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
SOURCES = [
    path
    for folder in (PACKAGE, ROOT / "flows")
    for path in sorted(folder.rglob("*.py"))
    if PACKAGE / "modalities" not in path.parents
]
IMAGES_ALONE = {"aigc_ops/pipeline/chain.py"}
"""`aigc-ops score` compares two sets of images, and says so."""


def contracts() -> dict[str, list[str]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    [layers] = [each for each in settings["contracts"] if each["type"] == "layers"]
    return layers


def test_the_page_draws_the_layers_that_the_linter_checks() -> None:
    [diagram] = re.findall(r"```layers\n(.*?)```", PAGE, re.S)
    drawn = [line.split("  ")[0].strip() for line in diagram.splitlines()]
    assert drawn == contracts()["layers"]


def test_every_folder_is_a_layer_and_the_root_holds_nothing_else() -> None:
    layers = {name.strip() for layer in contracts()["layers"] for name in layer.split("|")}
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name[0] != "_"}
    files = {path.name for path in PACKAGE.iterdir() if path.is_file()}
    modules = {"__main__", "artifacts"}
    assert folders == layers - modules
    assert files == {"__init__.py", *(f"{name}.py" for name in modules)}


def branches(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield what tells modalities apart by name, or by the type of samples, data or models."""
    names = set(modality_names())
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            values = [node.left, *node.comparators]
            elements = [e for v in values for e in (getattr(v, "elts", None) or [v])]
            if any(isinstance(e, ast.Constant) and e.value in names for e in elements):
                yield node
        elif isinstance(node, ast.Dict):
            keys = {key.value for key in node.keys if isinstance(key, ast.Constant)}
            if keys and keys <= names:
                yield node
        elif isinstance(node, ast.MatchValue):
            if isinstance(node.value, ast.Constant) and node.value.value in names:
                yield node
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
            kinds = ast.unparse(node.args[1])
            if re.search(r"\b(Image|Text)(s|Data|Model|LikelihoodModel)?\b", kinds) or (
                "Tensor" in kinds and re.search(r"sample|batch|drawn", ast.unparse(node.args[0]))
            ):
                yield node


def test_no_code_outside_the_modalities_tells_them_apart() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for path in SOURCES
        for node in branches(ast.parse(path.read_text()))
        if "interfaces/media.py" not in str(path) and not is_about_media(node)
    ]
    assert found == []


def is_about_media(node: ast.AST) -> bool:
    """Whether it tells a text from a picture to be shown, which are no modalities."""
    return isinstance(node, ast.Call) and bool(
        re.fullmatch(r"medium|media|content|item|each|shown", ast.unparse(node.args[0]))
    )


def test_only_model_families_know_a_modality_by_its_module() -> None:
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        # A new project is created with an example of a model family.
        is_family = name.startswith(("aigc_ops/models/", "aigc_ops/operations/template/families/"))
        if is_family or name in IMAGES_ALONE:
            continue
        assert "aigc_ops.modalities." not in path.read_text(), name


def test_a_branch_would_be_found() -> None:
    for code in (
        "if ref.modality == 'text': pass",
        "x = model.modality in ('image', 'audio')",
        "RATE = {'image': 1, 'text': 2}",
        "isinstance(samples, Tensor)",
        "isinstance(model, ImageModel | TextModel)",
    ):
        assert list(branches(ast.parse(code))), code


def test_few_functions_lie_between_the_command_and_the_optimisers_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    functions: list[str] = []

    def first_step(*_: object) -> None:
        frame: FrameType | None = sys._getframe()
        while frame:
            code = frame.f_code
            if code.co_filename.startswith((str(PACKAGE), str(ROOT / "flows"))):
                functions.insert(0, code.co_qualname)
            frame = frame.f_back
        raise KeyboardInterrupt

    monkeypatch.chdir(ROOT)
    hook = register_optimizer_step_pre_hook(first_step)
    try:
        assert main(["train", "configs/smoke.yaml"]) == 130
    finally:
        hook.remove()
    assert functions[0] == "main"
    assert len(functions) <= 7, functions  # `entry`, which exits the process, is the eighth


def test_files_and_functions_stay_short() -> None:
    files, functions = [], []
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "flows").rglob("*.py")]:
        text = path.read_text()
        if num := text.count("\n"):
            files.append((num, path.name))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                functions.append((lines, f"{path.name}:{node.name}"))
    assert sorted(files)[len(files) // 2][0] <= 150
    assert max(files)[0] <= 400, max(files)
    assert sorted(functions)[len(functions) // 2][0] <= 10
    assert max(functions)[0] <= 80, max(functions)
