"""What DVC says of a dataset: whether it is pinned, whether it still is what was pinned."""

import hashlib
import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import yaml

from aigc_ops.data.fingerprint import absolute, covering_pin
from aigc_ops.errors import DataError


@dataclass(frozen=True)
class Pin:
    """A .dvc file and the file or folder whose content it fixes."""

    file: Path
    output: Path
    digest: str
    """MD5 of the file; with `.dir`, of the folder's manifest as DVC writes it."""


def find_pin(path: str | Path) -> Pin | None:
    """The pin that covers a path, None when DVC does not know it."""
    target = absolute(path)
    file = covering_pin(target)
    if file is None:
        return None
    try:
        outputs = yaml.safe_load(file.read_text())["outs"]
        pins = [Pin(file, file.parent / out["path"], str(out["md5"])) for out in outputs]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise DataError(f"{file}: not a DVC file ({error}); run: dvc add again") from error
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
    shown = shlex.quote(os.path.relpath(pin.output))
    if not pin.output.exists():
        raise DataError(f"{shown}: pinned by {pin.file.name} but not here; run: dvc pull {shown}")
    if not _matches(pin, target) and not _unchanged_for_dvc(pin):
        pinned = shlex.quote(os.path.relpath(pin.file))
        raise DataError(
            f"{os.path.relpath(target)}: changed since dvc add (it is not what {pinned} pins); "
            f"to pin the change run: dvc add {shown} && git add {pinned}; "
            f"to undo it run: dvc checkout --force {shown}"
        )
    return pin.digest


def pull(path: str | Path) -> None:
    """Bring pinned data here from the default remote, every object checked by its digest."""
    pin = find_pin(path)
    if pin is None:
        raise DataError(f"{path}: not pinned by DVC, so there is nothing to pull")
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    shown = shlex.quote(os.path.relpath(pin.output))
    try:
        with Repo(str(pin.file.parent)) as repo:
            repo.fetch(targets=[str(pin.file)])
            _refuse_escapes(pin)
            repo.checkout(targets=[str(pin.file)])
    except DvcException as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{shown}: dvc pull failed ({reason}); an object of the remote is missing or damaged, "
            f"or local changes stand in the way; nothing half-written is used. "
            f"Mend the remote (dvc push from where the data is whole), then run: dvc pull {shown}"
        ) from error


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
    from dvc.repo import Repo

    try:
        with Repo(str(pin.file.parent)) as repo:
            return bool(repo.cloud.get_remote_odb().exists(pin.digest))
    except (DvcException, OSError) as error:
        raise DataError(
            f"DVC's remote does not answer ({' '.join(str(error).split())}); `dvc remote list` "
            "shows it, `dvc remote modify` corrects its address or credentials"
        ) from error


def _refuse_escapes(pin: Pin) -> None:
    """Raise DataError when a fetched manifest would write outside the pinned folder."""
    for name in _pinned_files(pin) or ():
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
            raise DataError(f"{pin.file}: its manifest names {name!r}, outside {pin.output.name}")


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
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _unchanged_for_dvc(pin: Pin) -> bool:
    """DVC's own word, which knows its ignore files and older hashes."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(pin.file.parent)) as repo:
            return not repo.status(targets=[str(pin.file)])
    except DvcException:
        return False
