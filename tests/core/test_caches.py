"""What is kept, listed by its use, and pruned the longest unused first."""

import os
import time
from pathlib import Path

import pytest
from filelock import FileLock

from aigc_ops.core import caches
from aigc_ops.core.errors import ConfigError


def entry(home: Path, name: str, *, num_bytes: int, used: float, kind: str = "reference") -> Path:
    folder = home / "cache" / kind / name
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(b"x" * num_bytes)
    os.utime(folder / "file", (used, used))
    folder.with_suffix(".lock").touch()
    return folder


def test_the_longest_unused_go_until_the_rest_fits(home: Path) -> None:
    old = entry(home, "old", num_bytes=1000, used=1000)
    middle = entry(home, "middle", num_bytes=1000, used=2000, kind="examples")
    new = entry(home, "new", num_bytes=1000, used=3000)
    assert [each.path for each in caches.entries()] == [old, middle, new]
    removed = caches.prune(2000)
    assert [each.path for each in removed] == [old]
    assert not old.exists()
    assert caches.prune(2000) == []
    assert [each.kind for each in caches.entries()] == ["examples", "reference"]


def test_a_home_without_a_cache_has_no_entries(home: Path) -> None:
    assert caches.entries() == []
    assert caches.prune(0) == []


def test_a_folder_that_goes_while_the_cache_is_listed_is_no_error(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("going", "staying"):
        (home / "cache" / "reference" / name).mkdir(parents=True)
    is_dir = Path.is_dir

    def removes(path: Path) -> bool:
        found = is_dir(path)
        if path.name == "going":
            path.rmdir()
        return found

    monkeypatch.setattr(Path, "is_dir", removes)
    assert "staying" in [entry.path.name for entry in caches.entries()]


def test_half_written_folders_are_left_to_their_writers(home: Path) -> None:
    entry(home, ".half.partial", num_bytes=10, used=1)
    assert caches.prune(0) == []


def test_the_cache_trims_itself_to_its_bound_but_for_what_is_in_use(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    old = entry(home, "old", num_bytes=1000, used=now - 3000)
    recent = entry(home, "recent", num_bytes=1000, used=now - 2000)
    fresh = entry(home, "fresh", num_bytes=1000, used=now)
    assert caches.trim() == []  # far from the default
    monkeypatch.setenv("AIGC_OPS_CACHE_GB", str(2000 / 2**30))
    caches.mark_used(old)
    assert [each.path for each in caches.trim()] == [recent]
    monkeypatch.setenv("AIGC_OPS_CACHE_GB", "0")
    assert caches.trim() == []
    assert old.exists()
    assert fresh.exists()


@pytest.mark.parametrize("lock", ["reference/held.lock", "reference/.lock"])
def test_what_another_holds_is_left_and_the_next_goes(home: Path, lock: str) -> None:
    held = entry(home, "held", num_bytes=10, used=1)
    model = entry(home, "model", num_bytes=10, used=2, kind="models")
    with FileLock(home / "cache" / lock):
        assert [each.path for each in caches.prune(10)] == [model]
    assert held.exists()
    assert [each.path for each in caches.prune(0)] == [held]
    assert [path.name for path in held.parent.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("told", ["much", "-1", "nan"])
def test_a_bound_that_is_no_number_is_refused(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIGC_OPS_CACHE_GB", told)
    with pytest.raises(ConfigError, match=r"AIGC_OPS_CACHE_GB is .* a number of gigabytes"):
        caches.trim()
