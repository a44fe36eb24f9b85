"""Each workaround is still needed with the versions that are installed, and can be switched off."""

import platform
from importlib.metadata import version

import pytest
import torch
from packaging.version import Version

from aigc_ops.core import workarounds
from aigc_ops.core.errors import ConfigError
from aigc_ops.core.workarounds import WORKAROUNDS, is_used
from aigc_ops.models.language.packed_linear import can_pack


@pytest.fixture(autouse=True)
def forgotten():
    workarounds.disabled_workarounds.cache_clear()
    yield
    workarounds.disabled_workarounds.cache_clear()


@pytest.mark.parametrize("name", WORKAROUNDS)
def test_a_workaround_was_tried_with_the_library_that_is_installed(name):
    workaround = WORKAROUNDS[name]
    is_python = workaround.library == "python"
    installed = platform.python_version() if is_python else version(workaround.library)
    assert Version(installed) < Version(workaround.tried_below), (
        f"{workaround.library} {installed}: try without {name} (AIGC_OPS_WITHOUT={name}); remove "
        f"it if nothing is lost, else raise its version. {workaround.reason}"
    )


def test_what_is_left_out_is_not_used(monkeypatch):
    monkeypatch.setenv("AIGC_OPS_WITHOUT", "packed-linear, malloc")
    assert not is_used("packed-linear")
    assert not can_pack(torch.zeros(2, 2))
    assert is_used("dvc-hashing")


def test_an_unknown_name_is_refused(monkeypatch):
    monkeypatch.setenv("AIGC_OPS_WITHOUT", "fast_exit")
    with pytest.raises(
        ConfigError, match="unknown workaround 'fast_exit'; choose from fast-exit, "
    ):
        is_used("malloc")
