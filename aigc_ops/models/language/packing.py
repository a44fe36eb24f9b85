"""Documents as rows that a network trains on."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aigc_ops.models.language.tokenizer import Documents, Integers, runs

IGNORED = -100  # a target that no loss counts
OPEN_ROWS = 64  # rows that a later text may still fill
TOKENS_AT_ONCE = 2**22  # in rows that are filled together; then they are full, whatever is left
KINDS = ("inputs", "targets", "positions")


def windows(
    length: int, *, context_length: int, overlap: int, first: int
) -> Iterator[tuple[int, int, int]]:
    """Yield (begin, end, scored): the ids begin..end-1 predict those from scored to end.

    Each id of so many, from `first` on, is predicted once, with at least `overlap` before it
    where there are so many. What stands before `first` and is longer than the context is cut at
    its beginning, by no more than the rest needs.
    """
    scored = first
    while scored < length:
        begin = 0 if scored <= context_length else scored - overlap
        if scored == first:
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
    """Rows of several documents: `inputs`, `targets`, `positions`, each (N, context).

    They are int16 where ids and positions fit, else int32. A position counts from 0 in each
    document, so a 0 marks where attention must not look back; there are none where each row
    holds one document alone. Padding has target -100 and position 0, and stands last. First
    fit among the newest open rows. With a folder, rows are written there as they fill, a NumPy
    file of each kind, and mapped into memory.
    """
    fits = max(context_length, num_tokens) <= np.iinfo(np.int16).max + 1
    rows = _Rows(context_length, np.dtype(np.int16 if fits else np.int32), folder)
    for batch in batches:
        first = batch.new if on_prompts else batch.first
        rows.add(batch.ids, *_pieces(batch, first, context_length))
    return rows.finish()


def _pieces(batch: Documents, first: Integers, context_length: int) -> list[Integers]:
    """Begin, end and scored of the windows over all documents, as places in the batch's ids."""
    begin, end, scored = batch.starts, batch.starts + batch.lengths - 1, batch.starts + first
    is_long = batch.lengths - 1 > context_length
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
    return list(pieces[pieces[:, 0].argsort(kind="stable"), 1:].T)


class _Rows:
    """Rows of inputs, targets and positions, filled many at a time."""

    def __init__(self, length: int, dtype: "np.dtype[Any]", folder: Path | None) -> None:
        self._length, self._folder = length, folder
        self._most = max(OPEN_ROWS, TOKENS_AT_ONCE // length)
        self._rows = np.zeros((len(KINDS), self._most, length), dtype)
        self._rows[1] = IGNORED
        self._num = 0
        self._full = 0
        """Rows that were filled before these."""
        self._done: list[list[Integers]] = [[] for _ in KINDS]
        self._open: list[int] = []
        """First free place of the newest open rows, counted over all rows, oldest first."""
        self._room: list[int] = []
        """Free places of these."""
        self._closes = max(1, length // 32)
        """Free places below which a row is full: few texts would fit, and all look at it."""
        self._is_shared = False
        self._files = (
            [(folder / f"{kind}.npy").open("wb") for kind in KINDS] if folder is not None else []
        )
        self._write_headers()

    def add(self, ids: Integers, begin: Integers, end: Integers, scored: Integers) -> None:
        """Place the pieces ids[begin..end-1], which predict those from scored to end."""
        placed, first = list[int](), 0
        lengths = end - begin
        for length in lengths.tolist():
            place = self._place(length)
            if place is None:
                last = first + len(placed)
                self._fill(ids, begin[first:last], lengths[first:last], scored[first:last], placed)
                self._let_go()
                placed, first = [], last
                place = self._place(length)
                assert place is not None, length
            placed.append(place)
        self._fill(ids, begin[first:], lengths[first:], scored[first:], placed)

    def _place(self, length: int) -> int | None:
        """Where a piece begins in the first open row with room; None when none can be opened."""
        for index, room in enumerate(self._room):
            if length <= room:
                place, self._is_shared = self._open[index], True
                if room - length < self._closes:
                    del self._open[index], self._room[index]
                else:
                    self._open[index], self._room[index] = place + length, room - length
                return place
        if self._num == self._most:
            return None
        place = self._num * self._length
        self._num += 1
        if self._length - length >= self._closes:
            self._open = [*self._open[1 - OPEN_ROWS :], place + length]
            self._room = [*self._room[1 - OPEN_ROWS :], self._length - length]
        return place

    def _fill(
        self, ids: Integers, begin: Integers, lengths: Integers, scored: Integers, places: list[int]
    ) -> None:
        there, here = runs(np.array(places, np.int64), lengths), runs(begin, lengths)
        inputs, targets, positions = self._rows.reshape(len(KINDS), -1)
        inputs[there] = ids[here]
        targets[there] = np.where(here + 1 < np.repeat(scored, lengths), IGNORED, ids[here + 1])
        positions[there] = here - np.repeat(begin, lengths)

    def _let_go(self) -> None:
        """Keep or write the rows, and begin anew."""
        rows = self._rows[:, : self._num]
        if self._files:
            for file, each in zip(self._files, rows, strict=True):
                each.tofile(file)
        else:
            for done, each in zip(self._done, rows, strict=True):
                done.append(each.copy())
        self._full, self._num = self._full + self._num, 0
        self._open, self._room = [], []
        rows[:] = 0
        rows[1] = IGNORED

    def _write_headers(self) -> None:
        """Begin each file with its final shape; NumPy leaves room for any number of rows."""
        shape = (self._full, self._length)
        for file in self._files:
            file.seek(0)
            np.lib.format.write_array_header_1_0(
                file, {"descr": self._rows.dtype.str, "fortran_order": False, "shape": shape}
            )

    def finish(self) -> dict[str, Tensor]:
        """All rows by kind; nothing is kept here."""
        self._let_go()
        kinds = KINDS if self._is_shared else KINDS[:2]
        if self._folder is None:
            # One kind at a time, for what is joined is held twice meanwhile.
            done = dict(zip(KINDS, self._done, strict=True))
            return {kind: torch.from_numpy(np.concatenate(done.pop(kind))) for kind in kinds}
        self._write_headers()
        for file in self._files:
            file.close()
        for kind in set(KINDS) - set(kinds):
            (self._folder / f"{kind}.npy").unlink()
        # A map that is private may be written to, which torch asks of arrays.
        return {
            kind: torch.from_numpy(np.load(self._folder / f"{kind}.npy", mmap_mode="c"))
            for kind in kinds
        }


def attention_within(positions: Tensor) -> Tensor:
    """(B, 1, T, T) bool: true where a token of packed rows may look."""
    documents = (positions == 0).cumsum(1)
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return same.tril()
