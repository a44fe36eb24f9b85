"""Which code this is: the digest of its sources, and the state of the git repository."""

import hashlib
import subprocess
from functools import cache
from pathlib import Path

from aigc_ops.core.artifacts import Noun
from aigc_ops.core.extensions import external_sources

MAX_HASHED_BYTES = 2**20


class Revision(Noun):
    """The state of the git repository around the working folder."""

    commit: str
    diff_digest: str | None
    """SHA-256 of `git diff HEAD` and the untracked files; None for a clean tree.

    Of an untracked file above 1 MiB, which is data rather than code, the size stands in.
    """


def revision() -> Revision | None:
    """The working folder's git state as it is now; None outside a repository with commits."""
    commit = _git("rev-parse", "HEAD").strip().decode()
    if not commit:
        return None
    top = Path(_git("rev-parse", "--show-toplevel").strip().decode())
    digest = hashlib.sha256(diff := _git("diff", "HEAD", "--binary", "--no-ext-diff"))
    listing = _git("-C", str(top), "ls-files", "--others", "--exclude-standard", "-z")
    untracked = [name for name in listing.decode(errors="surrogateescape").split("\0") if name]
    for name in untracked:
        path = top / name
        size = path.lstat().st_size
        content = path.read_bytes() if path.is_file() and size <= MAX_HASHED_BYTES else b""
        digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape") + content)
    return Revision(commit=commit, diff_digest=digest.hexdigest() if diff or untracked else None)


def has_commit(commit: str) -> bool:
    """Whether the repository around the working folder holds a commit."""
    return commit.isalnum() and bool(_git("cat-file", "-t", commit))


@cache
def code_digest() -> str:
    """Return a SHA-256 over the sources of aigc_ops and flows: other code may give other results.

    The sources of packages that add modalities or families count too.
    """
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
        done = subprocess.run(["git", *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        return b""
    return done.stdout if done.returncode == 0 else b""
