"""What is installed is what constraints.txt locks, and the lock names no index."""

import re

from aigc_ops.provenance.environment import LOCK, compare
from tests.conftest import ROOT

TEXT = (ROOT / LOCK).read_text()


def test_what_is_installed_is_what_is_locked():
    found = compare(TEXT)
    assert (found.other, found.unlocked, found.absent) == ({}, (), ())


def test_another_version_an_unlocked_and_an_absent_package_are_told():
    changed = re.sub(r"^numpy==.*$", "numpy==1.0", TEXT, flags=re.MULTILINE)
    changed = re.sub(r"^pillow==.*\n", "", changed, flags=re.MULTILINE) + "no-such-package==3\n"
    found = compare(changed)
    assert found.other["numpy"][1] == "1.0"
    assert "pillow" in found.unlocked
    assert "no-such-package" in found.absent


def test_what_an_extra_brings_need_not_be_locked(tmp_path, monkeypatch):
    for name, needs in (("dvc-s3", "s3-storage"), ("s3-storage", "dvc-s3"), ("stray", "numpy")):
        folder = tmp_path / f"{name.replace('-', '_')}-3.3.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: 3.3\nRequires-Dist: {needs}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert compare(TEXT).unlocked == ("stray",)


def test_the_lock_names_no_index():
    assert not re.search(r"https?://|--index-url|--extra-index|--find-links|file:", TEXT)
