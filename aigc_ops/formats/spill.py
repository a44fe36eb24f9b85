"""Sequences that may be larger than memory and spill to disk."""

import os
import tempfile
import weakref
from array import array
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, overload

from aigc_ops.core.errors import DataError
from aigc_ops.core.state_dir import home

MOST_IN_MEMORY = 2**25  # bytes of a column's items

Item = TypeVar("Item")


class Column(Generic[Item]):
    """Items appended one by one; beyond a size limit they are stored on disk."""

    def __init__(
        self, to_bytes: Callable[[Item], bytes], from_bytes: Callable[[bytes], Item]
    ) -> None:
        self._to_bytes, self._from_bytes = to_bytes, from_bytes
        self._items, self._num_bytes = list[Item](), 0
        self._stored: Stored[Item] | None = None

    def append(self, item: Item) -> None:
        """Add an item; raise DataError when the disk is full."""
        content = self._to_bytes(item)
        if self._stored is not None:
            self._stored.write(content)
            return
        self._items.append(item)
        self._num_bytes += len(content)
        if self._num_bytes > MOST_IN_MEMORY:
            self._stored = Stored(self._from_bytes)
            # Serialised again: keeping the bytes beside the items would double the memory.
            for kept_item in self._items:
                self._stored.write(self._to_bytes(kept_item))
            self._items = []

    def finish(self) -> Sequence[Item]:
        """Return all items: a list, or a sequence on disk."""
        if self._stored is None:
            return self._items
        self._stored.flush()
        return self._stored


class Stored(Sequence[Item]):
    """Items in an unlinked temporary file, which are read from it one by one."""

    def __init__(self, from_bytes: Callable[[bytes], Item]) -> None:
        self._from_bytes = from_bytes
        home().mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=home())  # noqa: SIM115
        # No `with`: the file lives as long as the sequence, and then must not warn about a leak.
        weakref.finalize(self, self._file.close)
        self._ends = array(
            "q", [0]
        )  # 8 bytes per item; a list of integers takes about four times as many

    def write(self, content: bytes) -> None:
        """Append the bytes of an item."""
        try:
            self._file.write(content)
        except OSError as error:
            raise _disk_full(error) from error
        self._ends.append(self._ends[-1] + len(content))

    def flush(self) -> None:
        """Write out buffered items; required before any is read."""
        try:
            self._file.flush()
        except OSError as error:
            raise _disk_full(error) from error

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        first, last = self._ends[row], self._ends[row + 1]
        # pread has no file position, so threads may read at once.
        return self._from_bytes(os.pread(self._file.fileno(), last - first, first))


def _disk_full(error: OSError) -> DataError:
    return DataError(
        f"{home()}: the texts do not fit on this disk ({error.strerror}); free space or choose "
        "another AIGC_OPS_HOME, then run again"
    )
