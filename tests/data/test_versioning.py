"""Datasets under DVC: pulled, checked against their pin, changed, pinned again."""

import errno
import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from aigc_ops.core.errors import DataError
from aigc_ops.data import DataConfig, open_dataset, pin_hint
from aigc_ops.data.dvc import check_pin, find_pin, is_in_remote, pins_here, pull
from aigc_ops.operations.doctor import LOCAL
from tests.data.making_data import write_images

Run = Callable[..., str]


def largest_object(repository: Path) -> Path:
    objects = (repository / "dvc-remote/files").rglob("*")
    return max((path for path in objects if path.is_file()), key=lambda path: path.stat().st_size)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def test_a_fresh_clone_pulls_its_data_without_a_network(clone: Path, run: Run) -> None:
    run(clone, "dvc", "pull")
    assert sorted(path.name for path in (clone / "data").iterdir()) == ["dialogue", "mnist"]
    assert run(clone, "git", "status", "--porcelain") == ""
    pin = find_pin(clone / "data/mnist")
    assert pin is not None
    assert check_pin(clone / "data/mnist") == pin.digest


def test_an_unpacked_archive_pulls_its_data_without_git(clone: Path) -> None:
    shutil.rmtree(clone / ".git")
    pull(clone / "data")
    assert open_dataset(DataConfig(path=str(clone / "data/mnist"))).num_train == 4500


def test_data_not_yet_pulled_says_what_to_run(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clone)
    with pytest.raises(DataError, match="not here; run: aigc-ops data pull data"):
        open_dataset(DataConfig(path="data/mnist"))
    pull("data/mnist")
    assert open_dataset(DataConfig(path="data/mnist")).num_train == 4500


def test_a_damaged_object_of_the_remote_is_refused_and_nothing_of_it_is_used(
    clone: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clone)
    flip_a_bit(largest_object(clone))
    with pytest.raises(DataError, match=r"the pull failed .* nothing half-written is used"):
        pull("data")
    with pytest.raises(DataError, match="run: aigc-ops data pull data"):
        open_dataset(DataConfig(path="data/mnist"))
    run(clone, "git", "checkout", "--quiet", ".")
    run(clone, "dvc", "pull")
    assert open_dataset(DataConfig(path="data/mnist")).num_train == 4500


@pytest.mark.parametrize("change", ["bit", "cut", "add", "remove"])
def test_data_changed_without_dvc_add_is_refused(
    pulled: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pulled)
    train = pulled / "data/mnist/train.parquet"
    match change:
        case "bit":
            flip_a_bit(train)
        case "cut":
            train.write_bytes(train.read_bytes()[:1000])
        case "add":
            (pulled / "data/mnist/extra.parquet").write_bytes(b"")
        case "remove":
            train.unlink()
    with pytest.raises(DataError, match="changed since dvc add") as refusal:
        open_dataset(DataConfig(path="data/mnist"))
    assert "aigc-ops dvc add data && git add data.dvc" in str(refusal.value)
    assert open_dataset(DataConfig(path="data/dialogue")).num_train > 0  # untouched


def test_the_commands_that_the_refusal_gives_pin_the_change(
    pulled: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pulled)
    before = open_dataset(DataConfig(path="data/dialogue"))
    flip_a_bit(pulled / "data/dialogue/heldout.parquet")
    with pytest.raises(DataError) as refusal:
        open_dataset(DataConfig(path="data/dialogue"))
    undoing, pinning = str(refusal.value).split("to undo the change run: ")[1].split("; to pin it ")
    pinning = pinning.removeprefix("run: ")
    for command in pinning.split(" && "):
        run(pulled, *shlex.split(command))
    after = open_dataset(DataConfig(path="data/dialogue"))
    assert after.dvc_digest not in (None, before.dvc_digest)

    flip_a_bit(pulled / "data/dialogue/train.parquet")
    run(pulled, *shlex.split(undoing))
    assert open_dataset(DataConfig(path="data/dialogue")) == after


def test_the_pin_is_checked_without_dvcs_cache_too(
    pulled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pulled)
    shutil.rmtree(pulled / ".dvc/cache")
    assert check_pin("data/mnist") == find_pin("data").digest
    flip_a_bit(pulled / "data/mnist/train.parquet")
    with pytest.raises(DataError, match="changed since dvc add"):
        check_pin("data/mnist")


def test_files_that_dvc_ignores_are_no_change(pulled: Path) -> None:
    (pulled / ".dvcignore").write_text("*.swp\n")
    (pulled / "data/mnist/.train.swp").write_bytes(b"")
    assert check_pin(pulled / "data/mnist") == find_pin(pulled / "data").digest


def test_own_data_is_not_pinned_until_its_hint_is_followed(
    clone: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clone)
    config = DataConfig(path=str(write_images(clone / "my pets", [f"{i}.png" for i in range(5)])))
    unpinned = open_dataset(config)
    assert unpinned.dvc_digest is None
    hint = pin_hint(unpinned)
    assert hint is not None
    for command in hint.split("run: ")[1].split(" && "):
        run(clone, *shlex.split(command))
    pinned = open_dataset(config)
    assert pinned.dvc_digest is not None
    assert pinned.content_digest == unpinned.content_digest
    assert pin_hint(pinned) is None


def test_another_remote_is_one_command_away(pulled: Path, run: Run, tmp_path: Path) -> None:
    run(pulled, "dvc", "remote", "modify", "embedded", "url", str(tmp_path / "elsewhere"))
    run(pulled, "dvc", "push")
    shutil.rmtree(pulled / "data")
    shutil.rmtree(pulled / ".dvc/cache")
    shutil.rmtree(pulled / "dvc-remote")
    run(pulled, "dvc", "pull")
    assert check_pin(pulled / "data/mnist") is not None
    assert "verify = true" in (pulled / ".dvc/config").read_text()


def test_a_single_file_can_be_pinned(clone: Path, run: Run) -> None:
    path = clone / "book.txt"
    path.write_text("\n".join(map(str, range(40))))
    run(clone, "dvc", "add", "book.txt")
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    assert open_dataset(DataConfig(path=str(path))).dvc_digest == digest
    path.chmod(0o644)
    path.write_text("other")
    with pytest.raises(DataError, match="changed since dvc add"):
        check_pin(path)


def test_a_hint_for_data_outside_says_to_bring_it_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "outside", ["1.png"])
    (tmp_path / "repository").mkdir()
    monkeypatch.chdir(tmp_path / "repository")
    hint = pin_hint(open_dataset(DataConfig(path="../outside")))
    assert hint is not None
    assert "copy it into this repository, then run: aigc-ops dvc add outside" in hint


def test_what_dvc_does_not_know_cannot_be_pulled(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not pinned by DVC"):
        pull(tmp_path / "mine")


def test_a_broken_dvc_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.dvc").write_text("outs: 3")
    with pytest.raises(DataError, match=r"mine.dvc: not a DVC file"):
        find_pin(tmp_path / "mine")


def store(remote: Path, content: bytes, suffix: str = "", *, digest: str | None = None) -> str:
    """The digest of an object put into a remote, or into the layout of DVC before 3."""
    digest = digest or hashlib.md5(content).hexdigest()
    path = remote / digest[:2] / (digest[2:].lstrip("/") + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return digest


def pin_folder(path: Path, remote: Path, name: str, **entry: str) -> None:
    """A .dvc file of a folder that holds one file, whose manifest lies in the remote."""
    entries = [{"md5": store(remote, b"owned"), "relpath": name} | entry]
    manifest = store(remote, json.dumps(entries).encode(), ".dir")
    new = "  hash: md5\n" * (remote.name == "md5")
    path.write_text(f"outs:\n- md5: {manifest}.dir\n  nfiles: 1\n{new}  path: {path.stem}\n")


@pytest.mark.parametrize(
    "name", ["../escaped.txt", "ROOT/escaped.txt", "a/../../escaped.txt", ".git/hooks/escaped.txt"]
)
@pytest.mark.parametrize("case", ["usual", "old layout", "other cache"])
def test_a_manifest_that_points_outside_is_refused_and_writes_nothing(
    clone: Path, name: str, case: str
) -> None:
    remote = clone / ("dvc-remote" if case == "old layout" else "dvc-remote/files/md5")
    if case == "other cache":
        with (clone / ".dvc/config").open("a") as config:
            config.write("[cache]\n    dir = ../../cache\n")
    pin_folder(clone / "evil.dvc", remote, name.replace("ROOT", str(clone.parent)))
    with pytest.raises(DataError, match=r"its manifest names .* outside evil"):
        pull(clone / "evil")
    assert not list(clone.parent.rglob("escaped.txt"))
    assert not (clone / "evil").exists()


def test_only_what_was_asked_for_is_written(clone: Path) -> None:
    remote = clone / "dvc-remote/files/md5"
    pin_folder(clone / "more.dvc", remote, "escaped.txt")
    fine = f"- md5: {store(remote, b'fine')}\n  hash: md5\n  path: evil\n"
    (clone / "evil.dvc").write_text((clone / "more.dvc").read_text() + fine)
    with pytest.raises(DataError, match="its manifest names 'more', outside evil"):
        pull(clone / "evil")
    assert not list(clone.rglob("escaped.txt"))


def test_a_link_in_place_of_a_pinned_folder_is_not_followed(clone: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (clone / "evil").symlink_to(tmp_path / "outside")
    pin_folder(clone / "evil.dvc", clone / "dvc-remote/files/md5", "escaped.txt")
    with pytest.raises(DataError, match="evil is a link to a folder"):
        pull(clone / "evil")
    assert not list((tmp_path / "outside").iterdir())


def test_digests_that_are_paths_put_no_object_outside_the_cache(clone: Path) -> None:
    remote = clone / "dvc-remote/files/md5"
    digest = "aa/../../../../../escaped.txt"  # three folders down in the remote, two in the cache
    store(remote, b"owned", digest=digest)
    source = (remote / "aa/../../../../../escaped.txt").resolve()
    pin_folder(clone / "evil.dvc", remote, "1.txt", md5=digest)
    with pytest.raises(DataError, match="is not a valid digest"):
        pull(clone / "evil")
    assert list(clone.parent.rglob("escaped.txt")) == [source]


@pytest.mark.parametrize("content", [b"", b'[{"md5": "12', b"[3]", b"{}"])
def test_a_damaged_manifest_of_the_remote_is_told_as_any_damaged_object(
    clone: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clone)
    [manifest] = (clone / "dvc-remote").rglob("*.dir")
    manifest.chmod(0o644)
    manifest.write_bytes(content)
    with pytest.raises(DataError, match=r"the pull failed .* Repair the remote"):
        pull("data")
    assert not (clone / "data").exists()


def test_a_pull_after_one_that_was_killed_goes_through(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clone)
    pull("data")
    (clone / "data/mnist/train.parquet").rename(clone / "data/mnist/.rgSf0-123456789012345_.tmp")
    (clone / "data/mnist/.rgSf0-123456789012345_.tmp").chmod(0o644)
    (clone / "data/mnist/.rgSf0-123456789012345_.tmp").write_bytes(b"half")
    with pytest.raises(DataError, match=r"train.parquet is missing.* run: aigc-ops data pull data"):
        open_dataset(DataConfig(path="data/mnist"))
    pull("data")
    assert open_dataset(DataConfig(path="data/mnist")).num_train == 4500


def test_a_file_of_the_users_own_stands_in_the_way_of_a_pull_and_stays(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clone)
    pull("data")
    mine = clone / "data/mnist/.mine.tmp"
    mine.write_bytes(b"mine")
    with pytest.raises(DataError, match=r"mine\.tmp"):
        pull("data")
    assert mine.read_bytes() == b"mine"


def test_a_full_disk_is_told_as_that(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clone)
    few = 1_500_000  # more than the least, fewer than the data takes
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=few))

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("dvc_objects.fs.utils.shutil.copyfile", fail)
    monkeypatch.setattr("dvc_objects.fs.system.reflink", fail)
    with pytest.raises(DataError, match=r"only 1,500,000 bytes .* free room there, then run"):
        pull("data")


def test_the_doctor_asks_the_remote_for_what_is_pinned(
    clone: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(clone / "dvc-remote")
    assert pins_here() == []
    monkeypatch.chdir(clone)
    [pin] = pins_here()
    assert pin.output == clone / "data"
    assert [advice for *_, advice in LOCAL["data"]()] == ["aigc-ops data pull data"]
    pull("data")
    assert [state for state, *_ in LOCAL["data"]()] == ["ok"]
    run(clone, "dvc", "remote", "modify", "embedded", "url", str(tmp_path / "empty"))
    assert not is_in_remote(pin)
    assert [(state, advice) for state, _, advice in LOCAL["data"]()] == [
        ("FAIL", "aigc-ops dvc push data")
    ]
    run(clone, "dvc", "remote", "remove", "embedded")
    with pytest.raises(DataError, match="DVC's remote does not answer"):
        is_in_remote(pin)
