"""Code outside this package that adds modalities or families.

It travels in a Bento and in the record of a registered version. A Bento contains another package
whole, with its entry points, and the project's modules in `aigc_ops.core.project_modules`, so that
the service discovers both. Their requirements are added at the versions installed here.
"""

import importlib.metadata
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from aigc_ops.core.artifacts import file_digest
from aigc_ops.core.errors import ConfigError, PackagingError
from aigc_ops.core.extensions import FAMILIES, MODALITIES, external, external_sources
from aigc_ops.core.project import PROJECT_FILE, project_code, project_requirements, project_root

OWN = "aigc-ops"
BENTOFILE = "bentofile.yaml"
PROJECT_MODULES = "aigc_ops/core/project_modules"


@dataclass(frozen=True)
class ExternalPackage:
    """A package that adds modalities or families by entry points."""

    module: str
    """Name of the top-level module."""
    source: Path
    """Folder of the package, or file of a single module."""
    points: tuple[EntryPoint, ...]

    def files(self) -> dict[str, Path]:
        """Return the package's files by their path below its parent, without compiled ones."""
        if self.source.is_file():
            return {self.source.name: self.source}
        # Compiled files contain a time, so they would change the digest of unchanged code.
        files = sorted(path for path in self.source.rglob("*") if path.is_file())
        top = self.source.parent
        return {p.relative_to(top).as_posix(): p for p in files if "__pycache__" not in p.parts}

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of each file by its path in the Bento."""
        return {name: file_digest(path) for name, path in self.files().items()}

    def copy(self, context: Path) -> list[str]:
        """Copy code and entry points into a Bento's context; return the patterns to include."""
        # 1. The code.
        copy_files(self.files(), context)
        # 2. A minimal dist-info folder, all that importlib.metadata needs to find entry points.
        # The original one is not copied: an editable install's refers to files of this machine.
        dist = self.points[0].dist
        assert dist is not None, self.points
        info = context / f"{self.module}-{dist.version}.dist-info"
        info.mkdir()
        text = f"Metadata-Version: 2.1\nName: {dist.name}\nVersion: {dist.version}\n"
        (info / "METADATA").write_text(text, "utf-8")
        groups: dict[str, list[str]] = {}
        for point in self.points:
            groups.setdefault(point.group, []).append(f"{point.name} = {point.value}")
        lines = (line for group, names in groups.items() for line in (f"[{group}]", *names, ""))
        (info / "entry_points.txt").write_text("\n".join(lines), "utf-8")
        # 3. Patterns for `include` in bentofile.yaml.
        pattern = "" if self.source.is_file() else "/**"
        return [f"{self.source.name}{pattern}", f"{info.name}/**"]

    def requirements(self) -> Iterator[str]:
        """Yield the package's requirements, pinned to the versions installed here."""
        dist = self.points[0].dist
        yield from _pinned((dist.requires or ()) if dist else ())


@dataclass(frozen=True)
class ProjectCode:
    """The project's families and modalities, and its settings of a Bento."""

    root: Path

    def files(self) -> dict[str, Path]:
        """Return the files of families and modalities by their path in the project."""
        return {p.relative_to(self.root).as_posix(): p for p in project_code(self.root)}

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of each file by its path in the project."""
        settings = {name: self.root / name for name in (PROJECT_FILE, BENTOFILE)}
        files = {**self.files(), **{n: path for n, path in settings.items() if path.is_file()}}
        return {name: file_digest(path) for name, path in files.items()}

    def copy(self, context: Path) -> list[str]:
        """Copy the code into a Bento's context; return the patterns to include."""
        copy_files(files := self.files(), context / PROJECT_MODULES)
        return [f"{PROJECT_MODULES}/{name}" for name in files]

    def requirements(self) -> Iterator[str]:
        """Yield the requirements in `aigc-ops.toml`, pinned to the versions installed here."""
        yield from _pinned(project_requirements(self.root))


def copy_files(files: Mapping[str, Path], folder: Path) -> None:
    """Copy files to their relative paths below a folder."""
    for name, path in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _pinned(lines: Iterable[str]) -> Iterator[str]:
    """Yield requirements at the versions installed here, without those for other systems."""
    for line in lines:
        try:
            requirement = Requirement(line)
            name = canonicalize_name(requirement.name)
            # This package's code is in the Bento already, and is on no index at this revision.
            if name != OWN and (requirement.marker is None or requirement.marker.evaluate()):
                yield f"{name}=={importlib.metadata.version(name)}"
        except InvalidRequirement as error:
            raise ConfigError(f"{line!r} is not a requirement ({error})") from error
        except importlib.metadata.PackageNotFoundError:
            raise PackagingError(f"{line} is required, but not installed; install it") from None


def added_code() -> list[ExternalPackage | ProjectCode]:
    """Return all code outside this package that adds modalities or families."""
    root = project_root()
    return [*external_packages(), *([ProjectCode(root)] if root else [])]


def external_packages() -> list[ExternalPackage]:
    """Return all installed packages that add modalities or families, sorted by module name.

    Raises PackagingError for a package whose code is missing.
    """
    points: dict[str, list[EntryPoint]] = {}
    for group in (MODALITIES, FAMILIES):
        for point in external(group).values():
            points.setdefault(point.module.partition(".")[0], []).append(point)
    sources = external_sources()
    if absent := sorted(points.keys() - sources.keys()):
        raise PackagingError(
            f"the package {absent[0]} is installed, but its code is missing; install it again"
        )
    return [ExternalPackage(name, sources[name], tuple(points[name])) for name in sorted(points)]
