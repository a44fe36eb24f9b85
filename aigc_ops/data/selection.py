"""The rows of a dataset that are read: repeats are left out, and long documents are cut.

The selection is part of the `Layout`, so training, evaluation and validation read the same rows.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aigc_ops.core.artifacts import Record, RowGroup, json_digest
from aigc_ops.formats.rows import positioned_rows, read_rows
from aigc_ops.interfaces.ingestion import SPLITS, DataHooks, DataSettings, Layout, Split
from aigc_ops.interfaces.reading import NUM_EXAMPLES
from aigc_ops.interfaces.row import Group, Row

LEAST_HELDOUT = 2
"""Held-out rows below which documents are cut: a score needs two."""
REPEATED = "repeats an earlier row of its split; limited by --validation.max-duplicate-fraction"
SHARED = "in the held-out split too, so it is not trained on"
RELABELLED = (
    "equal to an earlier row of its split that has another label; correct the labels, or ignore "
    "all of them by --data.label-column ''"
)

See = Callable[[Row, Split], None]
Mask = NDArray[np.bool_]


class Selection(Record):
    """Which rows are left out, which are read otherwise than stored, and how many are read."""

    left_out: dict[Split, dict[str, list[int]]]
    """Ascending positions by split and by POSIX path of the file."""
    piece_lengths: dict[Split, int]
    num_rows: dict[Split, int]
    num_changed: int
    dropped: tuple[RowGroup, ...]
    noted: tuple[RowGroup, ...]

    def of(self, layout: Layout) -> Layout:
        """Return the layout with this selection."""
        return replace(layout, left_out=self.left_out, piece_lengths=self.piece_lengths)

    def digest_of(self, content: str) -> str:
        """Return the digest of the rows read; that of the files if all are read as stored."""
        if not self.left_out and not self.num_changed:
            return content
        terms = self.model_dump(mode="json", include={"left_out", "piece_lengths", "num_changed"})
        return json_digest({"content": content, **terms})


def condition_key(row: Row) -> str:
    """Return a key of a row's conditions, which are equal in rows that repeat one another."""
    return repr((row.label, row.prompt, row.history))


def select_rows(layout: Layout, config: DataSettings, see: See) -> Selection:
    """Return the selection; `see` is called with every row, also with those left out.

    Documents are cut shorter where a score would lack held-out rows without that.
    """
    selection = _select(layout, config, see)
    if selection.num_rows["heldout"] >= LEAST_HELDOUT:
        return selection
    # A held-out split of one long document, or one document that must be in both splits.
    splits: tuple[Split, ...] = SPLITS if layout.files is None else ("heldout",)
    share = config.heldout_fraction if layout.files is None else 1.0
    rows = (row for split in splits for row in read_rows(layout, config, split))
    length = layout.hooks.piece_length(rows, share)
    if length is None:
        return selection
    cut = _select(
        replace(layout, piece_lengths=dict.fromkeys(splits, length)), config, lambda *_: None
    )
    is_enough = cut.num_rows["heldout"] >= LEAST_HELDOUT and cut.num_rows["train"] > 0
    return cut if is_enough else selection


def _select(layout: Layout, config: DataSettings, see: See) -> Selection:
    # 1. One pass over all rows, of which hashes and positions stay in memory.
    rows, changes = _Rows(layout.hooks), _Changes()
    for split in SPLITS:
        for file in layout.files_of(split):
            for position, row in positioned_rows(layout, config, split, Group(file)):
                rows.add(position, row)
                changes.add(row)
                see(row, split)
            rows.end_file(split)
    # 2. The repeats among them.
    masks = rows.repeats()
    left_out: dict[Split, dict[str, list[int]]] = {}
    for split, index, position in rows.located(masks[REPEATED] | masks[SHARED]):
        name = layout.files_of(split)[index].as_posix()
        left_out.setdefault(split, {}).setdefault(name, []).append(position)
    groups = {
        reason: RowGroup(
            reason=reason,
            count=int(mask.sum()),
            examples=tuple(
                _name(layout, config, split, layout.files_of(split)[index], position)
                for split, index, position in islice(rows.located(mask), NUM_EXAMPLES)
            ),
        )
        for reason, mask in masks.items()
        if mask.any()
    }
    num_left_out = {s: sum(map(len, left_out.get(s, {}).values())) for s in SPLITS}
    return Selection(
        left_out=left_out,
        piece_lengths=dict(layout.piece_lengths),
        num_rows={split: rows.num(split) - num_left_out[split] for split in SPLITS},
        num_changed=changes.num,
        dropped=tuple(groups[reason] for reason in (REPEATED, SHARED) if reason in groups),
        noted=(*changes.groups(), *(groups[r] for r in (RELABELLED,) if r in groups)),
    )


def _name(layout: Layout, config: DataSettings, split: Split, file: Path, position: int) -> str:
    """Return the name of a row, found by reading the file up to it."""
    rows = positioned_rows(layout, config, split, Group(file))
    return next(row.name for found, row in rows if found == position)


class _Changes:
    """Counts of changed rows by what was changed."""

    def __init__(self) -> None:
        self.num = 0
        self._names: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def add(self, row: Row) -> None:
        if row.change is not None:
            self.num += 1
            self._counts[row.change] = self._counts.get(row.change, 0) + 1
            names = self._names.setdefault(row.change, [])
            names += [row.name] * (len(names) < NUM_EXAMPLES)

    def groups(self) -> list[RowGroup]:
        return [
            RowGroup(reason=change, count=count, examples=tuple(self._names[change]))
            for change, count in self._counts.items()
        ]


class _Rows:
    """Hashes and positions of all rows, 24 bytes a row."""

    def __init__(self, hooks: DataHooks) -> None:
        self._hooks = hooks
        # 64 bits: among ten million different rows, the chance that one is dropped is 3e-6.
        self._samples, self._keys, self._positions = array("Q"), array("Q"), array("q")
        self._damaged = array("q")
        self._ends: dict[Split, array[int]] = {split: array("q") for split in SPLITS}

    def add(self, position: int, row: Row) -> None:
        digest = self._hooks.measure(row).get("digest")
        if digest is None:  # validation names the row
            self._damaged.append(len(self._positions))
        self._samples.append(_hash(f"{digest}"))
        self._keys.append(_hash(f"{digest} {condition_key(row)}"))
        self._positions.append(position)

    def end_file(self, split: Split) -> None:
        self._ends[split].append(len(self._positions))

    def num(self, split: Split) -> int:
        return len(self._span(split))

    def repeats(self) -> dict[str, Mask]:
        """Return the rows of each reason; rows without a digest have none."""
        samples, keys = np.array(self._samples), np.array(self._keys)
        is_whole = np.ones(len(keys), bool)
        is_whole[np.array(self._damaged, np.int64)] = False
        spans = (self._span(split) for split in SPLITS)
        train, heldout = (s.start + np.flatnonzero(is_whole[s.start : s.stop]) for s in spans)
        masks = {name: np.zeros(len(keys), bool) for name in (REPEATED, SHARED, RELABELLED)}
        # The held-out row stays, so that scores remain comparable with published ones.
        masks[SHARED][train] = np.isin(samples[train], samples[heldout])
        for rows in (train[~masks[SHARED][train]], heldout):
            masks[REPEATED][rows] = _is_later(keys[rows])
            remaining = rows[~masks[REPEATED][rows]]
            masks[RELABELLED][remaining] = _is_later(samples[remaining])
        return masks

    def located(self, mask: Mask) -> Iterator[tuple[Split, int, int]]:
        """Yield split, index of the file and position of the rows in a mask, in order."""
        for split in SPLITS:
            span = self._span(split)
            rows = span.start + np.flatnonzero(mask[span.start : span.stop])
            files = np.searchsorted(np.array(self._ends[split], np.int64), rows, side="right")
            for row, index in zip(rows.tolist(), files.tolist(), strict=True):
                yield split, index, self._positions[row]

    def _span(self, split: Split) -> range:
        """Return the indices of a split's rows; the training rows were added first."""
        end_of_train = max(self._ends["train"], default=0)
        if split == "train":
            return range(end_of_train)
        return range(end_of_train, max(self._ends["heldout"], default=end_of_train))


def _hash(text: str) -> int:
    content = text.encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())


def _is_later(values: NDArray[np.uint64]) -> Mask:
    """Return which values equal an earlier one."""
    _, first = np.unique(values, return_index=True)
    later = np.ones(len(values), bool)
    later[first] = False
    return later
