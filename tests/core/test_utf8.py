"""File names, files and output are UTF-8 in every locale."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def gb18030(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of a locale with an encoding that is not UTF-8."""
    folder = tmp_path_factory.mktemp("locales")
    # It lacks some categories, of which localedef warns.
    command = ["localedef", "-c", "-i", "POSIX", "-f", "GB18030", folder / "zh_CN.GB18030"]
    subprocess.run(command, capture_output=True, check=False)
    assert (folder / "zh_CN.GB18030").is_dir()
    return {"LOCPATH": str(folder), "LC_ALL": "zh_CN.GB18030"}


@pytest.mark.parametrize(
    ("start", "locale"),
    [
        ("program", "gb18030"),
        pytest.param("module", "gb18030", marks=pytest.mark.slow),
        pytest.param("program", "ascii", marks=pytest.mark.slow),
        pytest.param("module", "ascii", marks=pytest.mark.slow),
    ],
)
def test_a_command_reads_and_prints_names_as_utf8(
    tmp_path: Path, gb18030: dict[str, str], start: str, locale: str
) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    variables = gb18030 if locale == "gb18030" else ascii_only
    (tmp_path / "数据").mkdir()
    (tmp_path / "数据" / "诗.txt").write_text(
        "".join(f"床前明月光{n}\n" for n in range(18)), encoding="utf-8"
    )
    begin = {
        "program": [Path(sys.executable).with_name("aigc-ops")],
        "module": [sys.executable, "-m", "aigc_ops"],
    }[start]
    done = subprocess.run(
        [*begin, "data", "show", "数据/诗.txt"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    assert "read: 18 rows" in done.stdout.decode()
    assert "数据/诗.txt is not pinned" in done.stdout.decode()


def unnamed(path: Path) -> list[str]:
    """The calls in a file that open text without naming its encoding."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or any(k.arg == "encoding" for k in node.keywords):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        values = [*node.args, *(k.value for k in node.keywords)]
        modes = {
            v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)
        }
        is_binary = any(mode.strip("rwxab+") == "" and "b" in mode for mode in modes)
        is_text = any(k.arg == "text" for k in node.keywords)
        if (
            (name == "read_text" and not node.args)
            or (name == "write_text" and len(node.args) < 2)
            or (name in ("open", "fdopen") and modes and not is_binary and _is_file_mode(modes))
            or (name in ("open", "fdopen") and not values)
            or (name in ("run", "Popen", "check_output") and is_text)
        ):
            found.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    return found


def _is_file_mode(modes: set[str]) -> bool:
    return any(mode and not mode.strip("rwxa+t") for mode in modes)


def test_every_text_file_is_opened_with_its_encoding(tmp_path: Path) -> None:
    files = [p for folder in ("aigc_ops", "flows") for p in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 200
    assert [call for file in files for call in unnamed(file)] == []
    # The search itself finds what it is for.
    sample = ROOT / "tests" / "core" / "unnamed_encodings.txt"
    assert len(unnamed(sample)) == 5
