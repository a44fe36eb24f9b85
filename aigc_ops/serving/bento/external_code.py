"""Code of other packages that a Bento needs: the modalities and families that they add.

Each such package goes into the Bento whole, with its entry points, so that the service finds it
there as it is found here, and with the versions of what it requires.
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
    """Its top-level module."""
    source: Path
    """Its folder, or its one file."""
    points: tuple[EntryPoint, ...]

    def files(self) -> list[Path]:
        """Return its files, in order; compiled ones are left out."""
        if self.source.is_file():
            return [self.source]
        every = sorted(path for path in self.source.rglob("*") if path.is_file())
        return [path for path in every if "__pycache__" not in path.parts]

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of each file by its path in the Bento."""
        top = self.source.parent
        return {path.relative_to(top).as_posix(): file_digest(path) for path in self.files()}

    def copy(self, context: Path) -> list[str]:
        """Copy code and entry points into a Bento's context; return patterns of what was copied."""
        for path in self.files():
            target = context / path.relative_to(self.source.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
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
        inside = "" if self.source.is_file() else "/**"
        return [f"{self.source.name}{inside}", f"{info.name}/**"]

    def requirements(self) -> Iterator[str]:
        """Yield what the package requires, at the versions that are installed here."""
        dist = self.points[0].dist
        for line in (dist.requires or ()) if dist else ():
            requirement = Requirement(line)
            name = canonicalize_name(requirement.name)
            if name != OWN and (requirement.marker is None or requirement.marker.evaluate()):
                yield f"{name}=={importlib.metadata.version(name)}"


def external_packages() -> list[ExternalPackage]:
    """Return every installed package that adds modalities or families, by module name.

    Raises PackagingError for one whose code is not there.
    """
    points: dict[str, list[EntryPoint]] = {}
    for group in (MODALITIES, FAMILIES):
        for point in external(group).values():
            points.setdefault(point.module.partition(".")[0], []).append(point)
    sources = external_sources()
    if absent := sorted(points.keys() - sources.keys()):
        raise PackagingError(f"the package {absent[0]} is installed, but its code is not there")
    return [ExternalPackage(each, sources[each], tuple(points[each])) for each in sorted(points)]
