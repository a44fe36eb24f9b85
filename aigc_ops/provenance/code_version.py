"""Version of the running code: digest of its sources, and state of the git repository."""

import hashlib
import subprocess
from functools import cache
from pathlib import Path

from aigc_ops.core.artifacts import Record
from aigc_ops.core.extensions import external_sources

MAX_HASHED_BYTES = 2**20  # untracked files above 1 MiB are data rather than code


class Revision(Record):
    """The state of the git repository around the working folder."""

    commit: str
    diff_digest: str | None
    """SHA-256 of `git diff HEAD` and the untracked files; None for a clean tree.

    Of an untracked file above 1 MiB only name and size are hashed.
    """


def revision() -> Revision | None:
    """Return the working folder's git state, or None outside a repository with commits."""
    commit = _git("rev-parse", "HEAD").strip().decode()
    if not commit:
        return None
    top = Path(_git("rev-parse", "--show-toplevel").strip().decode())
    digest = hashlib.sha256(diff := _git("diff", "HEAD", "--binary", "--no-ext-diff"))
    # From the repository's top, since `git diff` covers all of it; -z leaves names unquoted.
    listing = _git("-C", str(top), "ls-files", "--others", "--exclude-standard", "-z")
    untracked = [name for name in listing.decode(errors="surrogateescape").split("\0") if name]
    for name in untracked:
        path = top / name
        size = path.lstat().st_size
        content = path.read_bytes() if path.is_file() and size <= MAX_HASHED_BYTES else b""
        digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape") + content)
    return Revision(commit=commit, diff_digest=digest.hexdigest() if diff or untracked else None)


def has_commit(commit: str) -> bool:
    """Return whether the repository around the working folder has a commit."""
    # `isalnum` keeps a value that begins with "-" from being read as an option of git.
    return commit.isalnum() and bool(_git("cat-file", "-t", commit))


@cache
def code_digest() -> str:
    """Return a SHA-256 over the sources of aigc_ops, flows, and packages that extend them."""
    # Part of the keys of cached results, because other code may give other results. Names are
    # relative, so that the same code in another folder has the same digest.
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for root in (package, package.parent / "flows", *external_sources().values()):
        for path in _sources(root):
            digest.update(path.relative_to(root.parent).as_posix().encode() + b"\0")
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _sources(root: Path) -> list[Path]:
    """Return the source files of a package's folder, or its one file, in order."""
    return [root] if root.is_file() else sorted([*root.rglob("*.py"), *root.rglob("*.html")])


def _git(*arguments: str) -> bytes:
    try:
        completed = subprocess.run(["git", *arguments], capture_output=True, check=False)
    except FileNotFoundError:  # git is not installed: as outside a repository
        return b""
    return completed.stdout if completed.returncode == 0 else b""
