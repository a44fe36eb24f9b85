"""Datasets under DVC: finding a pin, comparing data with it, pulling from the remote."""

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import yaml

from aigc_ops.core.errors import DataError
from aigc_ops.core.escaping import printable
from aigc_ops.core.file_contents import digest_content
from aigc_ops.core.kept_results import recall_or_compute
from aigc_ops.core.private_folders import claim
from aigc_ops.core.state_dir import LEAST_FREE_BYTES, full_disk_message
from aigc_ops.core.workarounds import is_used
from aigc_ops.formats.stat_digest import absolute, covering_pin, require_regular

if TYPE_CHECKING:
    from dvc.repo import Repo

DIGEST = re.compile(r"[\w-]+(\.dir)?", re.ASCII)
"""Digest of an object. DVC builds paths from it, so `../` in one would escape its cache."""
LEFTOVER = re.compile(r"\.[\w-]{22}\.tmp", re.ASCII)
"""Name of a file that DVC has not finished writing (`tmp_fname` of dvc_objects)."""


@dataclass(frozen=True)
class Pin:
    """A .dvc file with one of its outputs: a file or folder and its digest."""

    file: Path
    output: Path
    digest: str
    """MD5 of the file; with the suffix `.dir`, MD5 of the folder's manifest."""
    num_bytes: int = 0
    """Total size of all files; 0 if the .dvc file does not record it."""

    @property
    def quoted_path(self) -> str:
        """Output's relative path, quoted for a shell command in the working folder."""
        return shlex.quote(os.path.relpath(self.output))


def find_pin(path: str | Path) -> Pin | None:
    """Return the pin that covers a path; None when DVC does not track it."""
    target = absolute(path)
    file = covering_pin(target)
    if file is None:
        return None
    try:
        outputs = yaml.safe_load(file.read_text(encoding="utf-8"))["outs"]
        pins = [
            Pin(file, file.parent / out["path"], str(out["md5"]), int(out.get("size", 0)))
            for out in outputs
        ]
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError) as error:
        raise DataError(f"{file}: not a DVC file ({error}); run: aigc-ops dvc add again") from error
    return next((pin for pin in pins if target.is_relative_to(pin.output)), None)


def check_pin(path: str | Path) -> str | None:
    """Return the digest of the DVC output that covers a path; None when there is no pin.

    Raises DataError, naming the command to run, when the content differs from the pin or has
    not been pulled yet.
    """
    pin = find_pin(path)
    if pin is None:
        return None
    target = absolute(path)
    if not pin.output.exists():
        raise DataError(
            f"{pin.quoted_path}: pinned by {pin.file.name} but not here; run: aigc-ops data pull "
            f"{pin.quoted_path}"
        )
    # Importing DVC takes a second, so it is called only if the quick comparison finds a
    # difference. Then DVC decides: it knows ignore files and the hashes of older versions.
    is_equal = is_used("dvc-hashing") and _is_pinned(pin, target)
    if not is_equal and not _unchanged_for_dvc(pin):
        raise _changed(pin, target)
    return pin.digest


def _changed(pin: Pin, target: Path) -> DataError:
    """Return the error for data that differs from its pin, with the commands to run."""
    pinned = shlex.quote(os.path.relpath(pin.file))
    missing = [name for name in _pinned_files(pin) or () if not (pin.output / name).exists()]
    # After an interrupted pull the objects of missing files may be missing too. A changed file
    # was checked out before, so its object is in the cache and `checkout` needs no remote.
    if missing:
        difference = f"{missing[0]} is missing, which {pinned} pins"
        undo = f"aigc-ops data pull {pin.quoted_path}"
    else:
        difference = f"it differs from the content that {pinned} pins"
        undo = f"aigc-ops dvc checkout --force {pin.quoted_path}"
    return DataError(
        f"{os.path.relpath(target)}: changed since dvc add ({difference}); to undo the change "
        f"run: {undo}; to pin it run: aigc-ops dvc add {pin.quoted_path} && git add {pinned}"
    )


def pull(path: str | Path) -> None:
    """Download pinned data from the default remote; each object is checked by its digest.

    Raises DataError, with nothing written outside the data, when the remote is damaged or a
    name in the manifest leads outside the pinned output.
    """
    pin = find_pin(path)
    if pin is None:
        raise DataError(f"{path}: not pinned by DVC, so there is nothing to pull")
    from dvc.exceptions import DvcException
    from dvc.repo import lock_repo
    from dvc_data.index.index import DataIndexDirError
    from dvc_objects.errors import ObjectFormatError

    disks = [pin.file.parent]
    try:
        with _repository(pin) as repo, lock_repo(repo):
            disks.append(Path(repo.cache.local.path))
            # 1. Check a manifest that is in the cache already, before anything is written.
            _refuse_escapes(repo, pin)
            repo.fetch(targets=[str(pin.file)])
            # 2. Check again: fetching may have brought the manifest, which a remote's owner
            # could have written. The checkout follows its names.
            _refuse_escapes(repo, pin)
            # 3. DVC refuses to remove files that it does not know, its own leftovers included.
            _remove_leftovers(pin)
            repo.checkout(targets=[str(pin.file)])
    except (DvcException, DataIndexDirError, ObjectFormatError, OSError) as error:
        raise _pull_failed(pin, disks, error) from error


def _pull_failed(pin: Pin, disks: list[Path], error: Exception) -> DataError:
    # A full disk has many symptoms in DVC (OSError, a failed link, a missing object), so the free
    # space is checked whatever the error.
    reason = _one_line(error.__cause__ or error)
    needed = max(LEAST_FREE_BYTES, pin.num_bytes)
    full = (full_disk_message(disk, needed) for disk in disks if disk.exists())
    if shortage := next(filter(None, full), None):
        problem = f"{shortage}, and the data needs {pin.num_bytes:,}; free room there"
    else:
        problem = (
            "an object of the remote is missing or damaged, or local changes prevent the pull; "
            "nothing half-written is used. Repair the remote (aigc-ops dvc push from a clone with "
            "the complete data)"
        )
    return DataError(
        f"{pin.quoted_path}: the pull failed ({reason}); {problem}, then run: aigc-ops data pull "
        f"{pin.quoted_path}"
    )


def pins_here() -> list[Pin]:
    """Return the pins in the working folder and in its direct sub-folders."""
    # Not deeper: a working folder may hold millions of files.
    files = [*Path.cwd().glob("*.dvc"), *Path.cwd().glob("*/*.dvc")]
    pins = [find_pin(file.with_suffix("")) for file in sorted(files) if file.is_file()]
    return [pin for pin in pins if pin]


def is_in_remote(pin: Pin) -> bool:
    """Return True if the default remote holds the pinned file, or the folder's manifest.

    Raises DataError when there is no default remote, or it cannot be reached.
    """
    from dvc.exceptions import DvcException

    try:
        with _repository(pin) as repo:
            return bool(repo.cloud.get_remote_odb().exists(pin.digest))
    except (DvcException, OSError) as error:
        raise DataError(
            f"DVC's remote does not answer ({_one_line(error)}); `aigc-ops dvc remote list` "
            "shows it, `aigc-ops dvc remote modify` corrects its address or credentials"
        ) from error


def run_dvc(words: Sequence[str], output: TextIO) -> int:
    """Run DVC's command line with its site cache in a private folder; return its exit code."""
    # DVC unpickles values of its site cache, which is below /var/tmp by default (CVE-2025-69872).
    claim("DVC_SITE_CACHE_DIR")
    command = [sys.executable, "-P", "-m", "dvc", *words]
    return subprocess.run(command, stdout=output, check=False).returncode


def _repository(pin: Pin) -> "Repo":
    """Open the repository around a pin, with its site cache in a private folder."""
    from dvc.repo import Repo

    # The variable takes precedence over every config, also in repositories that this one imports.
    claim("DVC_SITE_CACHE_DIR")
    folder = pin.file.parent.absolute()
    # An unpacked archive of a repository has DVC's folder and no Git, which DVC asks for.
    has_git = any((above / ".git").exists() for above in (folder, *folder.parents))
    return Repo(str(folder), config=None if has_git else {"core": {"no_scm": True}})


def _one_line(error: BaseException) -> str:
    """Return DVC's message on one line, without terminal colours and control characters."""
    return printable(" ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split()))


def _refuse_escapes(repo: "Repo", pin: Pin) -> None:
    """Raise DataError when DVC would write outside the pinned output or outside its cache."""
    # The manifest comes from the remote, so it is not trusted. It is read through DVC's own
    # index: that lists what DVC will write, whichever cache, remote and layout are configured.
    from dvc.repo.index import index_from_targets

    root = Path(repo.root_dir)
    # DVC's root is a real path, so the parent is resolved too. The output itself is not: a link in
    # its place would make the link's target the permitted folder.
    within = (pin.file.parent.resolve() / os.path.relpath(pin.output, pin.file.parent)).parts
    index = index_from_targets(repo, targets=[str(pin.file)])
    for key, entry in index.data["repo"].iteritems():
        parts = (*root.parts, *key)
        if parts[: len(within)] != within or not all(map(_is_plain, key)):
            name = "/".join(key)
            raise DataError(f"{pin.file}: its manifest names {name!r}, outside {pin.output.name}")
        digest = entry.hash_info.value if entry.hash_info else None
        if digest and not DIGEST.fullmatch(digest):
            raise DataError(
                f"{pin.file}: its manifest holds {digest!r}, which is not a valid digest"
            )
        _refuse_links(root, key)


def _is_plain(part: str) -> bool:
    """Return True for a plain name: no separator, no `..`, nothing that git or DVC read."""
    # In lower case, because `.GIT` is the same folder on the file systems of macOS and Windows.
    return part.lower() not in ("", ".", "..", ".git", ".dvc") and not {*part} & {*"/\\\0"}


def _refuse_links(root: Path, key: tuple[str, ...]) -> None:
    # Not for a link to a file: DVC links files to its cache, and a checkout replaces them.
    for depth in range(1, len(key) + 1):
        path = root.joinpath(*key[:depth])
        if path.is_symlink() and path.is_dir():
            raise DataError(
                f"{path} is a link to a folder, into which a pull would write; replace it by a "
                "folder, or pull in another clone"
            )


def _remove_leftovers(pin: Pin) -> None:
    """Remove files that DVC had not finished writing when it was killed."""
    for path in _files_below(pin.output):
        if LEFTOVER.fullmatch(path.name):
            path.unlink()


def _is_pinned(pin: Pin, target: Path) -> bool:
    """Return True if the quick comparison finds no difference; unchanged files are not read."""
    files = {path.relative_to(pin.output).as_posix(): path for path in _files_below(target)}

    # An empty result is not cached: a difference is looked for again at each call.
    def compute() -> str:
        return pin.digest if _matches(pin, target) else ""

    return bool(recall_or_compute("pin", pin.digest, files, compute))


def _matches(pin: Pin, target: Path) -> bool:
    if not pin.digest.endswith(".dir"):
        return pin.output.is_file() and _file_md5(pin.output) == pin.digest
    pinned = _pinned_files(pin)
    if pinned is None:
        # Without the manifest only the digest of the whole output is known, so all is hashed.
        return _md5(_manifest(_present_files(pin.output, pin.output))) + ".dir" == pin.digest
    part = {name: md5 for name, md5 in pinned.items() if _is_below(pin.output / name, target)}
    return part == _present_files(target, pin.output)


def _pinned_files(pin: Pin) -> dict[str, str] | None:
    """Return MD5 by relative name from the manifest in DVC's cache; None without a sound one."""
    hexdigest = pin.digest.removesuffix(".dir")
    for folder in (pin.file.parent, *pin.file.parent.parents):
        manifest = folder / ".dvc/cache/files/md5" / hexdigest[:2] / f"{hexdigest[2:]}.dir"
        if manifest.is_file() and _md5(content := manifest.read_bytes()) == hexdigest:
            return {entry["relpath"]: entry["md5"] for entry in json.loads(content)}
        if (folder / ".dvc").is_dir():  # the repository's root: the cache is not above it
            break
    return None


def _present_files(target: Path, output: Path) -> dict[str, str]:
    return {path.relative_to(output).as_posix(): _file_md5(path) for path in _files_below(target)}


def _manifest(files: dict[str, str]) -> bytes:
    """Return a folder's manifest, byte for byte as DVC hashes it."""
    # DVC (dvc_data's Tree.as_bytes): sorted entries, sorted keys, json.dumps' default separators.
    entries = [{"md5": files[name], "relpath": name} for name in sorted(files)]
    return json.dumps(entries, sort_keys=True).encode()


def _files_below(target: Path) -> Iterator[Path]:
    if target.is_file():
        yield target
    for folder, _, names in os.walk(target):
        yield from (Path(folder) / name for name in names)


def _is_below(path: Path, target: Path) -> bool:
    return path == target or target in path.parents


def _file_md5(path: Path) -> str:
    require_regular(path)
    return digest_content(path, "md5")


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _unchanged_for_dvc(pin: Pin) -> bool:
    """Return True if DVC itself finds no change; it knows ignore files and older hashes."""
    from dvc.exceptions import DvcException

    try:
        with _repository(pin) as repo:
            return not repo.status(targets=[str(pin.file)])
    except DvcException:
        return False
