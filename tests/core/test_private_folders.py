"""Caches whose content a library executes lie in folders of this user alone."""

import os
import stat
from pathlib import Path

import pytest

from aigc_ops.core.errors import ConfigError
from aigc_ops.core.private_folders import claim
from aigc_ops.core.state_dir import PRIVATE_FOLDERS, export_environment, home
from aigc_ops.operations.doctor import LOCAL

VARIABLES = pytest.mark.parametrize("variable", PRIVATE_FOLDERS)


@VARIABLES
def test_the_folder_is_made_private_whatever_the_umask(variable: str) -> None:
    before = os.umask(0)
    try:
        folder = claim(variable)
    finally:
        os.umask(before)
    assert folder == home() / PRIVATE_FOLDERS[variable]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert os.environ[variable] == str(folder)
    assert claim(variable) == folder


def test_a_home_that_others_may_read_is_no_hindrance() -> None:
    home().mkdir(mode=0o755)
    home().chmod(0o755)
    assert claim("DVC_SITE_CACHE_DIR").is_dir()


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o777, 0o1777, 0o500])
def test_another_mode_is_refused_until_the_folder_is_removed(mode: int) -> None:
    folder = claim("DVC_SITE_CACHE_DIR")
    folder.chmod(mode)
    with pytest.raises(ConfigError, match=rf"has mode {mode:o} instead of 700; .*rm -r {folder}"):
        claim("DVC_SITE_CACHE_DIR")
    folder.rmdir()
    assert claim("DVC_SITE_CACHE_DIR") == folder


def test_another_owner_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    claim("DVC_SITE_CACHE_DIR")
    monkeypatch.setattr("os.geteuid", lambda: 4_000_000)
    with pytest.raises(ConfigError, match=r"belongs to \w+, not to user 4000000; .*AIGC_OPS_HOME"):
        claim("DVC_SITE_CACHE_DIR")


@pytest.mark.parametrize("make", ["link", "file"])
def test_what_is_no_folder_is_refused(make: str, tmp_path: Path) -> None:
    home().mkdir()
    folder = home() / "dvc-site-cache"
    if make == "link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "theirs")
    else:
        folder.touch(mode=0o700)
    with pytest.raises(ConfigError, match="is a link or a file, not a folder"):
        claim("DVC_SITE_CACHE_DIR")


@VARIABLES
def test_no_other_folder_is_used_whatever_the_variable_was(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for point in (export_environment, lambda: claim(variable)):
        monkeypatch.setenv(variable, str(tmp_path / "shared"))
        point()
        assert os.environ[variable] == str(home() / PRIVATE_FOLDERS[variable])


def test_a_home_holds_them_before_a_library_would_make_them() -> None:
    before = os.umask(0)
    try:
        export_environment()
    finally:
        os.umask(before)
    for variable, name in PRIVATE_FOLDERS.items():
        assert os.environ[variable] == str(home() / name)
        assert stat.S_IMODE((home() / name).stat().st_mode) == 0o700


def test_the_doctor_checks_them_and_makes_none() -> None:
    assert [*LOCAL["private caches"]()] == [("ok", "none exists yet", None)]
    assert not home().exists()
    site, compiled = (claim(variable) for variable in PRIVATE_FOLDERS)
    [(state, found, _)] = LOCAL["private caches"]()
    assert (state, found.rpartition(": ")[2]) == ("ok", "accessible to you only")
    site.chmod(0o777)
    compiled.rmdir()
    compiled.symlink_to("nowhere")
    [first, second] = LOCAL["private caches"]()
    assert first[:2] == ("FAIL", f"{site} has mode 777 instead of 700")
    assert f"rm -r {site}" in str(first[2])
    assert second[:2] == ("FAIL", f"{compiled} is a link or a file, not a folder")
