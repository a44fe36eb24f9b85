"""Version of the running code: digest of its sources, and state of the git repository."""

import hashlib
import subprocess
from functools import cache
from pathlib import Path

from aigc_ops.core.artifacts import Record
from aigc_ops.core.extensions import external_sources
from aigc_ops.core.project import project_code, project_root

MAX_HASHED_BYTES = 2**20  # untracked files above 1 MiB are data rather than code


class Revision(Record):
    """The state of the git repository around the working folder."""

    commit: str
    diff_digest: str | None
    """SHA-256 of `git diff HEAD` and the untracked files; None for a clean tree.

    Of an untracked file above 1 MiB only name and size are hashed.
    """


def package_commit() -> str | None:
    """Return the commit of this package's sources, with `-dirty` after changes; None if unknown."""
    package = Path(__file__).parents[1]
    built_from = package / "commit.txt"  # in a wheel
    if built_from.is_file():
        return built_from.read_text("utf-8").strip()
    root = package.parent
    # Only the package's own repository: site-packages may be in one of another project.
    if not (root / ".git").exists():
        return None
    described = _git("-C", str(root), "describe", "--always", "--abbrev=40", "--dirty")
    return described.decode().strip() or None


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
    """Return a SHA-256 over the sources of aigc_ops, flows, and the code that extends them.

    That code is the project's families and modalities, and packages with entry points.
    """
    # Part of the keys of cached results, because other code may give other results. Names are
    # relative, so that the same code in another folder has the same digest.
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for root in (package, package.parent / "flows", *external_sources().values()):
        for path in _sources(root):
            digest.update(path.relative_to(root.parent).as_posix().encode() + b"\0")
            digest.update(path.read_bytes())
    if project := project_root():
        for path in project_code(project):
            digest.update(path.relative_to(project).as_posix().encode() + b"\0")
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
