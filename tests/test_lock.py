"""What is installed is what constraints.txt locks, and the lock names no index."""

import re
from importlib.metadata import distributions

from packaging.utils import canonicalize_name

from tests.conftest import ROOT


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_every_installed_package_is_locked_at_its_version():
    locked = pins()
    left_to_torch = re.compile(r"nvidia-|cuda-|triton$")
    installed = {canonicalize_name(d.metadata["Name"]): d.version for d in distributions()}
    unlocked = {
        name: version
        for name, version in installed.items()
        if not left_to_torch.match(name)
        and name != "aigc-ops"
        and locked.get(name) != version.split("+")[0]
    }
    assert unlocked == {}


def test_the_lock_names_nothing_that_is_not_installed():
    installed = {canonicalize_name(d.metadata["Name"]) for d in distributions()}
    assert set(pins()) - installed == set()


def test_the_lock_names_no_index():
    text = (ROOT / "constraints.txt").read_text()
    assert not re.search(r"https?://|--index-url|--extra-index|--find-links|file:", text)
