"""The state of a dataset at a glance."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aigc_ops.core.errors import DataError
from aigc_ops.formats.stat_digest import covering_pin, quick_digest
from tests.data.making_data import PROJECT, write_images


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", ["a/1.png", "a/2.png", "b/1.png"])


def touch(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))


def test_nothing_changed_gives_the_same_digest(images: Path) -> None:
    assert quick_digest(images) == quick_digest(str(images))


def test_a_name_that_is_not_utf8_is_refused_by_name(images: Path) -> None:
    (images / "a" / "1.png").rename(images / "a" / os.fsdecode(b"caf\xe9.png"))
    with pytest.raises(DataError, match=r"caf\\xe9\.png': the name is not UTF-8"):
        quick_digest(images)


@pytest.mark.parametrize("change", ["rewrite", "add", "remove", "rename", "touch", "pin"])
def test_every_change_shows(images: Path, change: str) -> None:
    before = quick_digest(images)
    file = images / "a/1.png"
    match change:
        case "rewrite":
            file.write_bytes(b"longer" + file.read_bytes())
        case "add":
            (images / "c.png").write_bytes(b"")
        case "remove":
            file.unlink()
        case "rename":
            file.rename(images / "a/3.png")
        case "touch":
            touch(file)
        case "pin":
            (images.parent / "images.dvc").write_text("outs: []\n")
    assert quick_digest(images) != before


def test_hidden_files_do_not_count(images: Path) -> None:
    before = quick_digest(images)
    (images / ".DS_Store").write_bytes(b"x")
    (images / ".cache").mkdir()
    (images / ".cache" / "x.png").write_bytes(b"x")
    assert quick_digest(images) == before


def test_a_link_that_leads_nowhere_counts_as_a_file(images: Path) -> None:
    before = quick_digest(images)
    (images / "a/3.png").symlink_to(images / "gone.png")
    assert quick_digest(images) != before


def test_a_missing_dataset_has_a_digest_of_its_own(images: Path) -> None:
    missing = quick_digest(images.parent / "nowhere")
    assert missing == quick_digest(images.parent / "nowhere")
    assert missing != quick_digest(images)


def test_a_pin_covers_everything_below_it_within_its_repository(tmp_path: Path) -> None:
    (tmp_path / "data.dvc").touch()
    repository = tmp_path / "data" / "repository"
    (repository / ".dvc").mkdir(parents=True)
    assert covering_pin(tmp_path / "data" / "deep" / "er") == tmp_path / "data.dvc"
    assert covering_pin(repository / "data") is None
    assert covering_pin(tmp_path / "other") is None


def test_it_needs_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import aigc_ops.formats.stat_digest;"
        "found = {name.split('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(found - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['aigc_ops']"
