"""Reading a folder of samples that is no dataset to train on."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aigc_ops.core.errors import DataError
from aigc_ops.data.config import DataConfig
from aigc_ops.data.reading import reading_of
from aigc_ops.formats.layout import find_layout
from aigc_ops.formats.rows import read_all_rows
from aigc_ops.formats.stat_digest import absolute
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.ingestion import Layout
from aigc_ops.interfaces.reading import Reading, require_read
from aigc_ops.interfaces.row import Row


@dataclass(frozen=True)
class SampleFolder:
    """The samples of a folder, of one modality, which are read like a dataset's."""

    layout: Layout
    config: DataConfig

    @classmethod
    def open(cls, path: str, modality: str, *, allow_unread: bool) -> "SampleFolder":
        """Find the samples in a folder; raises DataError if too many files are not read."""
        root = absolute(path)
        if not root.is_dir():
            raise DataError(f"{path} is not a folder; give a folder of samples")
        config = DataConfig(path=path, modality=modality, allow_unread=True)
        layout = find_layout(root, config, [find_modality(modality).data])
        if not allow_unread:
            require_read(Path(path), len(layout.every_file()), layout.unread, "--allow-unread")
        return cls(layout, config)

    def rows(self) -> Iterator[Row]:
        """Yield the undecoded rows of all files, in file order."""
        return read_all_rows(self.layout, self.config)

    def reading(self, num_rows: int, class_names: tuple[str, ...]) -> Reading:
        """Return what was read, and what was not; the names are those of classes that were used."""
        return reading_of(self.layout, self.config, num_rows, class_names)
