import subprocess
from pathlib import Path

import pytest

from aigc_ops.provenance.code_version import revision


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    monkeypatch.chdir(folder)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q"], check=True)
    (folder / "code.py").write_text("one = 1\n")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    return folder


def test_a_clean_tree_is_its_commit_alone(repository):
    found = revision()
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert found is not None
    assert (found.commit, found.diff_digest) == (head.stdout.strip(), None)


def test_a_dirty_tree_has_the_digest_of_what_differs(repository):
    (repository / "code.py").write_text("one = 2\n")
    edited = revision()
    (repository / "new.py").write_text("two = 2\n")
    added = revision()
    assert edited is not None
    assert added is not None
    assert edited.diff_digest
    assert added.diff_digest not in (None, edited.diff_digest)


def test_outside_a_repository_there_is_no_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert revision() is None
