"""Packing of documents into training rows."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aigc_ops.models.language.tokenizer import Documents, Integers, concatenated_ranges

IGNORED = -100  # target that is masked from the loss; `ignore_index` of torch's cross-entropy
OPEN_ROWS = 64  # rows that a later document may still be added to
TOKENS_AT_ONCE = 2**22  # rows held in memory; when they are used up, all are written
KINDS = ("inputs", "targets", "positions")


def windows(
    length: int, *, context_length: int, overlap: int, first: int
) -> Iterator[tuple[int, int, int]]:
    """Yield (begin, end, scored): ids begin..end-1 are inputs, ids scored..end are targets.

    Each of `length` ids from `first` on is a target once. Windows after the first have `overlap`
    ids before their first target. A prompt longer than the context is cut at its beginning.
    """
    scored = first
    while scored < length:
        begin = 0 if scored <= context_length else scored - overlap
        if scored == first:
            # The first window need not skip more of the prompt than its targets need room for.
            begin = min(begin, max(0, length - 1 - context_length))
        end = min(begin + context_length, length - 1)
        yield begin, end, scored
        scored = end + 1


def pack(
    batches: Iterable[Documents],
    *,
    context_length: int,
    num_tokens: int,
    on_prompts: bool,
    folder: Path | None = None,
) -> dict[str, Tensor]:
    """Return rows of several documents: `inputs`, `targets`, `positions`, each (N, context).

    They are int16 if ids and positions fit, else int32. Positions count from 0 in each
    document, and attention stays within a document. Positions are omitted if each row holds
    one document. Padding is last, with target -100 and position 0. With a folder, each kind is
    written there as a NumPy file while rows are filled, and then mapped into memory.
    """
    fits = max(context_length, num_tokens) <= np.iinfo(np.int16).max + 1
    rows = _Rows(context_length, np.dtype(np.int16 if fits else np.int32), folder)
    for batch in batches:
        first = batch.new if on_prompts else batch.first
        rows.add(batch.ids, *_pieces(batch, first, context_length))
    return rows.finish()


def _pieces(batch: Documents, first: Integers, context_length: int) -> list[Integers]:
    """Return begin, end and scored of all documents' windows, as indices of the batch's ids."""
    begin, end, scored = batch.starts, batch.starts + batch.lengths - 1, batch.starts + first
    is_long = batch.lengths - 1 > context_length
    # Nearly all documents fit into the context and are handled as arrays; only long ones are cut
    # in a Python loop.
    if not is_long.any():
        return [begin, end, scored]
    cut = [
        (document, *(batch.starts[document] + np.array(window)))
        for document in np.flatnonzero(is_long)
        for window in windows(
            int(batch.lengths[document]),
            context_length=context_length,
            overlap=1,
            first=int(first[document]),
        )
    ]
    whole = np.flatnonzero(~is_long)
    pieces = np.concatenate(
        [np.stack([whole, begin[whole], end[whole], scored[whole]], 1), np.array(cut)]
    )
    # Back into the documents' order, with the windows of one document in sequence.
    return list(pieces[pieces[:, 0].argsort(kind="stable"), 1:].T)


class _Rows:
    """Rows of inputs, targets and positions; first-fit packing among the newest open rows."""

    def __init__(self, length: int, dtype: "np.dtype[Any]", folder: Path | None) -> None:
        self._length, self._folder = length, folder
        self._max_rows = max(OPEN_ROWS, TOKENS_AT_ONCE // length)
        self._rows = np.zeros((len(KINDS), self._max_rows, length), dtype)
        self._rows[1] = IGNORED
        self._num = 0  # rows in use
        self._num_flushed = 0
        self._flushed: list[list[Integers]] = [[] for _ in KINDS]
        # Open rows, oldest first: index of the first free token over all rows, and free tokens.
        self._open: list[int] = []
        self._room: list[int] = []
        # A row with fewer free tokens is closed: few documents would fit, but each would try it.
        self._min_room = max(1, length // 32)
        self._is_shared = False  # whether any row holds several documents
        self._files = (
            [(folder / f"{kind}.npy").open("wb") for kind in KINDS] if folder is not None else []
        )
        self._write_headers()

    def add(self, ids: Integers, begin: Integers, end: Integers, scored: Integers) -> None:
        """Add the inputs ids[begin..end-1], whose targets are ids[scored..end]."""
        # Only the search for a row is a Python loop. Tokens are copied for many pieces at once.
        targets, first = list[int](), 0
        lengths = end - begin
        for length in lengths.tolist():
            index = self._allocate(length)
            if index is None:
                # All rows are in use: copy what was allocated so far, flush, begin again.
                last = first + len(targets)
                self._fill(ids, begin[first:last], lengths[first:last], scored[first:last], targets)
                self._flush()
                targets, first = [], last
                index = self._allocate(length)
                assert index is not None, length
            targets.append(index)
        self._fill(ids, begin[first:], lengths[first:], scored[first:], targets)

    def _allocate(self, length: int) -> int | None:
        """Return the index at which a piece begins, or None when all rows are in use."""
        for index, room in enumerate(self._room):
            if length <= room:
                start, self._is_shared = self._open[index], True
                if room - length < self._min_room:
                    del self._open[index], self._room[index]
                else:
                    self._open[index], self._room[index] = start + length, room - length
                return start
        if self._num == self._max_rows:
            return None
        start = self._num * self._length
        self._num += 1
        # The oldest open row is closed when there are too many, so that the search stays short.
        if self._length - length >= self._min_room:
            self._open = [*self._open[1 - OPEN_ROWS :], start + length]
            self._room = [*self._room[1 - OPEN_ROWS :], self._length - length]
        return start

    def _fill(
        self, ids: Integers, begin: Integers, lengths: Integers, scored: Integers, starts: list[int]
    ) -> None:
        """Copy pieces of the batch's ids into the rows, at the indices `starts`."""
        target = concatenated_ranges(np.array(starts, np.int64), lengths)
        source = concatenated_ranges(begin, lengths)
        inputs, targets, positions = self._rows.reshape(len(KINDS), -1)
        inputs[target] = ids[source]
        # An id's target is the next id; ids before `scored` are context and are not learnt.
        is_context = source + 1 < np.repeat(scored, lengths)
        targets[target] = np.where(is_context, IGNORED, ids[source + 1])
        positions[target] = source - np.repeat(begin, lengths)

    def _flush(self) -> None:
        """Write the rows, or copy them aside, and clear the memory for the next ones."""
        rows = self._rows[:, : self._num]
        if self._files:
            for file, values in zip(self._files, rows, strict=True):
                values.tofile(file)
        else:
            for flushed, values in zip(self._flushed, rows, strict=True):
                flushed.append(values.copy())
        self._num_flushed, self._num = self._num_flushed + self._num, 0
        self._open, self._room = [], []
        rows[:] = 0
        rows[1] = IGNORED

    def _write_headers(self) -> None:
        """Write each file's header, whose length is the same for any number of rows."""
        # NumPy pads headers for this purpose, so the final shape can overwrite the first one.
        shape = (self._num_flushed, self._length)
        for file in self._files:
            file.seek(0)
            np.lib.format.write_array_header_1_0(
                file, {"descr": self._rows.dtype.str, "fortran_order": False, "shape": shape}
            )

    def finish(self) -> dict[str, Tensor]:
        """Return all rows by kind, and release this object's own copies."""
        self._flush()
        kinds = KINDS if self._is_shared else KINDS[:2]
        if self._folder is None:
            # One kind at a time, because concatenation needs twice the memory meanwhile.
            flushed = dict(zip(KINDS, self._flushed, strict=True))
            return {kind: torch.from_numpy(np.concatenate(flushed.pop(kind))) for kind in kinds}
        self._write_headers()
        for file in self._files:
            file.close()
        for kind in set(KINDS) - set(kinds):
            (self._folder / f"{kind}.npy").unlink()
        # "c" maps privately (copy on write): torch warns of arrays that are not writeable.
        return {
            kind: torch.from_numpy(np.load(self._folder / f"{kind}.npy", mmap_mode="c"))
            for kind in kinds
        }


def attention_within(positions: Tensor) -> Tensor:
    """Return the mask (B, 1, T, T) of packed rows: true where a token attends."""
    # A position 0 begins a document, so the running count of zeros numbers the documents.
    documents = (positions == 0).cumsum(1)
    is_same = documents[:, None, :, None] == documents[:, None, None, :]
    return is_same.tril()
