"""Documents as rows that a network trains on."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aigc_ops.models._tokens import Document

IGNORED = -100  # a target that no loss counts
OPEN_ROWS = 64  # rows that a later text may still fill
ROWS_AT_ONCE = 1024  # added when all are full


def windows(
    document: Document, *, context_length: int, overlap: int, first: int
) -> Iterator[tuple[int, int, int]]:
    """Yield (begin, end, scored): the ids begin..end-1 predict those from scored to end.

    Each id from `first` on is predicted once, with at least `overlap` before it where the
    document has so many.
    """
    scored = first
    while scored < len(document.ids):
        begin = 0 if scored <= context_length else scored - overlap
        end = min(begin + context_length, len(document.ids) - 1)
        yield begin, end, scored
        scored = end + 1


def pack(
    documents: Iterable[Document], *, context_length: int, on_prompts: bool
) -> dict[str, Tensor]:
    """Rows of several documents: `inputs`, `targets`, `positions`, each (N, context) int32.

    A position counts from 0 in each document, so a 0 marks where attention must not look
    back; there are none where each row holds one document alone. Padding has target -100 and
    position 0, and stands last. First fit among the newest open rows.
    """
    rows = _Rows(context_length)
    for document in documents:
        ids = np.array(document.ids, np.int32)
        first = document.new if on_prompts else document.first
        cuts = windows(document, context_length=context_length, overlap=1, first=first)
        for begin, end, scored in cuts:
            inputs, targets, positions = rows.place(end - begin)
            inputs[:] = ids[begin:end]
            targets[scored - 1 - begin :] = ids[scored : end + 1]
            positions[:] = np.arange(end - begin)
    return rows.tensors()


class _Rows:
    """Growing rows of inputs, targets and positions."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._blocks: list[np.ndarray[Any, np.dtype[np.int32]]] = []
        self._open: list[tuple[int, int]] = []
        """(row, places taken) of the newest rows, oldest first."""
        self._num = 0
        self._is_shared = False
        self._open_until = length - max(1, length // 32)
        """Places taken beyond which a row is full: few texts would fit, and all look at it."""

    def place(self, length: int) -> "np.ndarray[Any, np.dtype[np.int32]]":
        """Room for a piece, (3, length), in the first open row that has as much."""
        for index, (row, taken) in enumerate(self._open):
            if taken + length <= self._length:
                self._open[index] = (row, taken + length)
                if taken + length > self._open_until:
                    del self._open[index]
                self._is_shared = True
                return self._block(row)[:, row % ROWS_AT_ONCE, taken : taken + length]
        row, self._num = self._num, self._num + 1
        if length <= self._open_until:
            self._open = [*self._open[-(OPEN_ROWS - 1) :], (row, length)]
        return self._block(row)[:, row % ROWS_AT_ONCE, :length]

    def _block(self, row: int) -> "np.ndarray[Any, np.dtype[np.int32]]":
        if row // ROWS_AT_ONCE == len(self._blocks):
            block = np.zeros((3, ROWS_AT_ONCE, self._length), np.int32)
            block[1] = IGNORED
            self._blocks.append(block)
        return self._blocks[row // ROWS_AT_ONCE]

    def tensors(self) -> dict[str, Tensor]:
        """All rows by kind, (N, length) int32 each; nothing is kept here."""
        names = ("inputs", "targets", "positions")[: 3 if self._is_shared else 2]
        blocks, self._blocks = self._blocks, []
        rows = np.empty((len(names), self._num, self._length), np.int32)
        for first in reversed(range(0, self._num, ROWS_AT_ONCE)):  # each is let go once copied
            block, num = blocks.pop(), min(ROWS_AT_ONCE, self._num - first)
            rows[:, first : first + num] = block[: len(names), :num]
        return {name: torch.from_numpy(rows[kind]) for kind, name in enumerate(names)}


def attention_within(positions: Tensor) -> Tensor:
    """(B, 1, T, T) bool: true where a token of packed rows may look."""
    documents = (positions == 0).cumsum(1)
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return same.tril()
