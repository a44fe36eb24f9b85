"""Our packed rows against the datasets library's map with the same tokenizer and 2 processes.

    python benchmarks/tokens.py [--megabytes 100] [--rounds 3]

The datasets library tokenises alone; ours packs too. By wall time, which a busy machine
falsifies, and by the processor's.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence

from datasets import Dataset, disable_progress_bars
from results import benchmark_parser, recorder

from aigc_ops.data.config import DataConfig
from aigc_ops.data.dataset import open_dataset, read_split
from aigc_ops.modalities.text.model import TextData
from aigc_ops.models.gpt import Gpt, GptConfig

DIALOGUE = DataConfig(path="data/dialogue")


def build_parser() -> argparse.ArgumentParser:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    return parser


def main() -> None:
    """Make rows of as many megabytes in turns, and print the ratios."""
    given = build_parser().parse_args()
    record = recorder(given)
    disable_progress_bars()
    sample = read_split(open_dataset(DIALOGUE), DIALOGUE, "train")
    assert isinstance(sample, TextData)
    texts, size = list[str](), 0
    while size < given.megabytes * 1e6:
        text = " ".join(
            (sample.prompts or [""])[(len(texts) * 7 + k) % len(sample)] for k in (0, 1, 2)
        )
        texts.append(f"{len(texts)} {text} {sample.texts[len(texts) % len(sample)]}")
        size += len(texts[-1].encode())
    model = Gpt.from_data(GptConfig(vocab_size=2048, context_length=256), sample)

    def ours() -> None:
        model.examples(TextData(texts))

    def encoded(rows: dict[str, Sequence[str]]) -> dict[str, list[list[int]]]:
        found = model.vocabulary.tokenizer.encode_batch_fast(rows["text"])
        return {"ids": [each.ids for each in found]}

    def theirs() -> None:
        with tempfile.TemporaryDirectory() as folder:
            Dataset.from_dict({"text": texts}).map(
                encoded, batched=True, num_proc=2, remove_columns=["text"],
                cache_file_name=f"{folder}/rows.arrow",
            )  # fmt: skip

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds: dict[str, list[tuple[float, float]]] = {"ours": [], "datasets": []}
    for number in range(given.rounds):
        for name, run in (("ours", ours), ("datasets", theirs)):
            busy = sum(os.times()[:4])  # this process and its children
            started = time.perf_counter()
            run()
            wall = time.perf_counter() - started
            processor = sum(os.times()[:4]) - busy
            seconds[name].append((wall, processor))
            print(f"{name:8} {wall:6.1f} s   processor {processor:6.1f} s", flush=True)
            if not number and name == "ours":
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                print(f"peak {peak / 2**20:.2f} GiB ({before / 2**20:.2f} before)")
                record("tokens-memory", [(peak - before) / 2**20])
    for index, kind in enumerate(("wall", "processor")):
        our_seconds, their_seconds = ([spent[index] for spent in side] for side in seconds.values())
        ratios = [b / a for a, b in zip(our_seconds, their_seconds, strict=True)]
        shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"{kind}: {statistics.median(ratios):.2f} times as fast ({shown})")
        record(f"tokens-{kind}", our_seconds, their_seconds, ratios=ratios)


if __name__ == "__main__":
    main()
