"""What DVC says of a dataset: whether it is pinned, whether it still is what was pinned."""

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
from aigc_ops.core.state_dir import LEAST_FREE_BYTES, full_disk
from aigc_ops.core.workarounds import is_used
from aigc_ops.formats.stat_digest import absolute, covering_pin, require_regular

if TYPE_CHECKING:
    from dvc.repo import Repo

DIGEST = re.compile(r"[\w-]+(\.dir)?", re.ASCII)
"""Of an object. DVC makes paths of it, so that `../` in one would lead it outside its cache."""
LEFTOVER = re.compile(r"\.[\w-]{22}\.tmp", re.ASCII)
"""The name under which DVC writes a file until it is whole (dvc_objects' tmp_fname)."""


@dataclass(frozen=True)
class Pin:
    """A .dvc file and the file or folder whose content it fixes."""

    file: Path
    output: Path
    digest: str
    """MD5 of the file; with `.dir`, of the folder's manifest as DVC writes it."""
    num_bytes: int = 0
    """Of all files; 0 where the .dvc file does not say."""

    @property
    def shown(self) -> str:
        """The output as it is typed in a command here."""
        return shlex.quote(os.path.relpath(self.output))


def find_pin(path: str | Path) -> Pin | None:
    """The pin that covers a path, None when DVC does not know it."""
    target = absolute(path)
    file = covering_pin(target)
    if file is None:
        return None
    try:
        outputs = yaml.safe_load(file.read_text())["outs"]
        pins = [
            Pin(file, file.parent / out["path"], str(out["md5"]), int(out.get("size", 0)))
            for out in outputs
        ]
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError) as error:
        raise DataError(f"{file}: not a DVC file ({error}); run: aigc-ops dvc add again") from error
    return next((pin for pin in pins if target.is_relative_to(pin.output)), None)


def check_pin(path: str | Path) -> str | None:
    """Digest of the DVC output that pins what lies at a path, None when nothing does.

    Raises DataError when the content is no longer, or not yet, what was pinned, and says
    which command puts that right. DVC itself, which takes a second to import, is asked
    only when the quick comparison finds a difference.
    """
    pin = find_pin(path)
    if pin is None:
        return None
    target = absolute(path)
    if not pin.output.exists():
        raise DataError(
            f"{pin.shown}: pinned by {pin.file.name} but not here; run: aigc-ops data pull "
            f"{pin.shown}"
        )
    is_equal = is_used("dvc-hashing") and _is_pinned(pin, target)
    if not is_equal and not _unchanged_for_dvc(pin):
        raise _changed(pin, target)
    return pin.digest


def _changed(pin: Pin, target: Path) -> DataError:
    """The refusal of data that is not what was pinned, with the commands that put it right."""
    pinned = shlex.quote(os.path.relpath(pin.file))
    missing = [name for name in _pinned_files(pin) or () if not (pin.output / name).exists()]
    if missing:  # as a pull that was stopped leaves it
        found = f"{missing[0]} is missing, which {pinned} pins"
        undo = f"aigc-ops data pull {pin.shown}"
    else:
        found = f"it is not what {pinned} pins"
        undo = f"aigc-ops dvc checkout --force {pin.shown}"
    return DataError(
        f"{os.path.relpath(target)}: changed since dvc add ({found}); to undo it run: {undo}; "
        f"to pin the change run: aigc-ops dvc add {pin.shown} && git add {pinned}"
    )


def pull(path: str | Path) -> None:
    """Bring pinned data here from the default remote, every object checked by its digest.

    Raises DataError, with nothing written outside the data, when the remote is damaged or the
    pinned names lead elsewhere.
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
            _refuse_escapes(repo, pin)
            repo.fetch(targets=[str(pin.file)])
            _refuse_escapes(repo, pin)
            _remove_leftovers(pin)
            repo.checkout(targets=[str(pin.file)])
    except (DvcException, DataIndexDirError, ObjectFormatError, OSError) as error:
        raise _pull_failed(pin, disks, error) from error


def _pull_failed(pin: Pin, disks: list[Path], error: Exception) -> DataError:
    reason = _words(error.__cause__ or error)
    needed = max(LEAST_FREE_BYTES, pin.num_bytes)
    full = (full_disk(disk, needed) for disk in disks if disk.exists())
    if told := next(filter(None, full), None):
        problem = f"{told}, and the data takes {pin.num_bytes:,}; free room there"
    else:
        problem = (
            "an object of the remote is missing or damaged, or local changes stand in the way; "
            "nothing half-written is used. Mend the remote (aigc-ops dvc push from where the data "
            "is whole)"
        )
    return DataError(
        f"{pin.shown}: the pull failed ({reason}); {problem}, then run: aigc-ops data pull "
        f"{pin.shown}"
    )


def pins_here() -> list[Pin]:
    """The pins of the working folder and of the folders in it."""
    files = [*Path.cwd().glob("*.dvc"), *Path.cwd().glob("*/*.dvc")]
    found = [find_pin(file.with_suffix("")) for file in sorted(files) if file.is_file()]
    return [pin for pin in found if pin]


def is_in_remote(pin: Pin) -> bool:
    """Whether the default remote answers and holds the pinned file, or the folder's manifest.

    Raises DataError when there is no default remote, or it cannot be reached.
    """
    from dvc.exceptions import DvcException

    try:
        with _repository(pin) as repo:
            return bool(repo.cloud.get_remote_odb().exists(pin.digest))
    except (DvcException, OSError) as error:
        raise DataError(
            f"DVC's remote does not answer ({_words(error)}); `aigc-ops dvc remote list` "
            "shows it, `aigc-ops dvc remote modify` corrects its address or credentials"
        ) from error


def run_dvc(words: Sequence[str], output: TextIO) -> int:
    """Run DVC's own command line with its site cache in a private folder; return its exit code."""
    claim("DVC_SITE_CACHE_DIR")
    command = [sys.executable, "-P", "-m", "dvc", *words]
    return subprocess.run(command, stdout=output, check=False).returncode


def _repository(pin: Pin) -> "Repo":
    """Open the repository around a pin, with its site cache in a private folder."""
    from dvc.repo import Repo

    # The variable takes precedence over every config, also in repositories that this one imports.
    claim("DVC_SITE_CACHE_DIR")
    return Repo(str(pin.file.parent))


def _words(error: BaseException) -> str:
    """What DVC says, in one line and without the colours that it has for terminals."""
    return printable(" ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split()))


def _refuse_escapes(repo: "Repo", pin: Pin) -> None:
    """Raise DataError when DVC would write outside the pinned output, or its objects elsewhere.

    DVC's own index tells what it will write, whatever cache, remote and layout that comes from.
    """
    from dvc.repo.index import index_from_targets

    root = Path(repo.root_dir)
    within = (pin.file.parent.resolve() / os.path.relpath(pin.output, pin.file.parent)).parts
    index = index_from_targets(repo, targets=[str(pin.file)])
    for key, entry in index.data["repo"].iteritems():
        parts = (*root.parts, *key)
        if parts[: len(within)] != within or not all(map(_is_plain, key)):
            name = "/".join(key)
            raise DataError(f"{pin.file}: its manifest names {name!r}, outside {pin.output.name}")
        digest = entry.hash_info.value if entry.hash_info else None
        if digest and not DIGEST.fullmatch(digest):
            raise DataError(f"{pin.file}: its manifest holds {digest!r}, which is no digest")
        _refuse_links(root, key)


def _is_plain(part: str) -> bool:
    """Whether a part of a pinned name is a name, and none that git or DVC act upon."""
    return part.lower() not in ("", ".", "..", ".git", ".dvc") and not {*part} & {*"/\\\0"}


def _refuse_links(root: Path, key: tuple[str, ...]) -> None:
    for depth in range(1, len(key) + 1):
        path = root.joinpath(*key[:depth])
        if path.is_symlink() and path.is_dir():
            raise DataError(
                f"{path} is a link to a folder, which a pull would write to; put a folder in its "
                "place, or pull in another clone"
            )


def _remove_leftovers(pin: Pin) -> None:
    """Remove what DVC had not written whole when it was killed, and would refuse to remove."""
    for path in _files_below(pin.output):
        if LEFTOVER.fullmatch(path.name):
            path.unlink()


def _is_pinned(pin: Pin, target: Path) -> bool:
    """Return whether the quick comparison finds no difference; unchanged files are not read."""
    files = {path.relative_to(pin.output).as_posix(): path for path in _files_below(target)}

    def compute() -> str:
        return pin.digest if _matches(pin, target) else ""

    return bool(recall_or_compute("pin", pin.digest, files, compute))


def _matches(pin: Pin, target: Path) -> bool:
    if not pin.digest.endswith(".dir"):
        return pin.output.is_file() and _file_md5(pin.output) == pin.digest
    pinned = _pinned_files(pin)
    if pinned is None:  # no manifest at hand: compare the whole output
        return _md5(_manifest(_present_files(pin.output, pin.output))) + ".dir" == pin.digest
    part = {name: md5 for name, md5 in pinned.items() if _is_below(pin.output / name, target)}
    return part == _present_files(target, pin.output)


def _pinned_files(pin: Pin) -> dict[str, str] | None:
    """MD5 by relative name, from DVC's cache; None when the manifest is not there or damaged."""
    hexdigest = pin.digest.removesuffix(".dir")
    for folder in (pin.file.parent, *pin.file.parent.parents):
        manifest = folder / ".dvc/cache/files/md5" / hexdigest[:2] / f"{hexdigest[2:]}.dir"
        if manifest.is_file() and _md5(content := manifest.read_bytes()) == hexdigest:
            return {entry["relpath"]: entry["md5"] for entry in json.loads(content)}
        if (folder / ".dvc").is_dir():
            break
    return None


def _present_files(target: Path, output: Path) -> dict[str, str]:
    return {path.relative_to(output).as_posix(): _file_md5(path) for path in _files_below(target)}


def _manifest(files: dict[str, str]) -> bytes:
    """A folder's manifest byte for byte as DVC hashes it."""
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
    """DVC's own word, which knows its ignore files and older hashes."""
    from dvc.exceptions import DvcException

    try:
        with _repository(pin) as repo:
            return not repo.status(targets=[str(pin.file)])
    except DvcException:
        return False
