"""Code of other packages that add modalities or families, for inclusion in a Bento.

Such a package is copied whole, with its entry points, so that the service discovers it in the
same way. Its requirements are added at the versions installed here.
"""

import importlib.metadata
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from aigc_ops.core.artifacts import file_digest
from aigc_ops.core.errors import PackagingError
from aigc_ops.core.extensions import FAMILIES, MODALITIES, external, external_sources

OWN = "aigc-ops"


@dataclass(frozen=True)
class ExternalPackage:
    """A package that adds modalities or families by entry points."""

    module: str
    """Name of the top-level module."""
    source: Path
    """Folder of the package, or file of a single module."""
    points: tuple[EntryPoint, ...]

    def files(self) -> list[Path]:
        """Return the package's files, sorted, without compiled ones."""
        if self.source.is_file():
            return [self.source]
        # Compiled files contain a time, so they would change the digest of unchanged code.
        files = sorted(path for path in self.source.rglob("*") if path.is_file())
        return [path for path in files if "__pycache__" not in path.parts]

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of each file by its path in the Bento."""
        top = self.source.parent
        return {path.relative_to(top).as_posix(): file_digest(path) for path in self.files()}

    def copy(self, context: Path) -> list[str]:
        """Copy code and entry points into a Bento's context; return the patterns to include."""
        # 1. The code.
        for path in self.files():
            target = context / path.relative_to(self.source.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
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
        for line in (dist.requires or ()) if dist else ():
            requirement = Requirement(line)
            name = canonicalize_name(requirement.name)
            # This package's code is in the Bento already, and is on no index at this revision.
            if name != OWN and (requirement.marker is None or requirement.marker.evaluate()):
                yield f"{name}=={importlib.metadata.version(name)}"


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
