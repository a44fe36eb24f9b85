"""What is installed is what constraints.txt locks, and the lock names no index."""

import re

from aigc_ops.installation import LOCK, compare
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


def test_the_lock_names_no_index():
    assert not re.search(r"https?://|--index-url|--extra-index|--find-links|file:", TEXT)
