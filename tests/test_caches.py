"""What is kept, listed by its use, and pruned the longest unused first."""

import os
from pathlib import Path

from aigc_ops import caches


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
    assert not old.with_suffix(".lock").exists()
    assert caches.prune(2000) == []
    assert [each.kind for each in caches.entries()] == ["examples", "reference"]


def test_a_home_without_a_cache_has_no_entries(home: Path) -> None:
    assert caches.entries() == []
    assert caches.prune(0) == []


def test_half_written_folders_are_left_to_their_writers(home: Path) -> None:
    entry(home, ".half.partial", num_bytes=10, used=1)
    assert caches.prune(0) == []
