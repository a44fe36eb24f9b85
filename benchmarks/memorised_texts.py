"""Whether the gate finds models that have memorised their training texts.

    python benchmarks/memorised_texts.py --trials FILE [--models N] [--resamples N]

The texts are paragraphs of the documentation that Python holds. For each kind five small GPTs are
trained on 80 of them: one kind for 600 steps without dropout, one for 40 steps. Each evaluation
draws other held-out texts, and other samples. Each trial is appended to a file of JSON lines, from
which a further call resumes.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from results import Recorder, benchmark_parser, recorder

from aigc_ops.compute.random import Noise
from aigc_ops.core.artifacts import DatasetRef, Score, Scores
from aigc_ops.modalities.text.metrics.generated import memorisation_score, overlap_scores
from aigc_ops.modalities.text.metrics.verbatim import detect_verbatim_copies
from aigc_ops.modalities.text.model import TextData
from aigc_ops.models.gpt import Gpt, GptConfig
from aigc_ops.promotion.config import PromotionConfig
from aigc_ops.promotion.validity import memorisation_reason, unexamined_reason
from aigc_ops.sampling import sampler

NUM_TRAIN, NUM_TEXTS, NUM_BEGINNINGS = 80, 100, 80
HELDOUT = (10, 38, 300)
KINDS = {"memorised": (600, 0.0), "clean": (40, 0.2)}  # steps and dropout
MIN_WORDS, MAX_WORDS = 24, 32
BATCH = 8


def paragraphs() -> list[str]:
    """Return the beginnings of different paragraphs, in a fixed random order."""
    blocks = [block.split() for text in topics.values() for block in text.split("\n\n")]
    texts = {" ".join(block[:MAX_WORDS]) for block in blocks if len(block) >= MIN_WORDS}
    return [str(text) for text in np.random.default_rng(0).permutation(sorted(texts))]


def trained(known: list[str], *, num_steps: int, dropout: float, seed: int) -> Gpt:
    """Return a GPT of two layers that was trained on these texts."""
    torch.manual_seed(seed)
    config = GptConfig(
        vocab_size=512, context_length=256, num_layers=2, num_heads=4, width=128, dropout=dropout,
        optimizer={"learning_rate": 3e-3},
    )  # fmt: skip
    model = Gpt.from_data(config, TextData(known))
    draw, optimizer = np.random.default_rng(seed), model.optimizer("network")
    model.train()
    for step in range(num_steps):
        rows = draw.choice(len(known), BATCH, replace=False)
        examples = model.examples(TextData([known[row] for row in rows]))
        noise = Noise(step, rows=torch.arange(BATCH), batch_size=BATCH, device=torch.device("cpu"))
        (loss,) = model.losses(examples, noise)
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    return model.eval()


def ruling_on(model: Gpt, train: TextData, heldout: TextData, seed: int) -> str:
    """Return the gate's result on one evaluation: flagged, not examined or passed."""
    requests = sampler.requests(model, NUM_TEXTS, seed=seed)
    texts = sampler.generate(model, requests)
    ref = DatasetRef(
        uri="paragraphs", modality="text", content_digest="0" * 64, num_train=len(train),
        num_heldout=len(heldout),
    )  # fmt: skip
    values: dict[str, Score]
    values, *_ = overlap_scores(texts, heldout, train, ref, decoding=None, seed=seed)
    found = detect_verbatim_copies(model, train, heldout, num=NUM_BEGINNINGS)
    if not isinstance(found, str):
        values["copies_in_continuations"] = memorisation_score(found[0], ref)
    scores = Scores(
        checkpoint_digest="0" * 64, modality="text", primary="bits_per_byte", values=values
    )
    config = PromotionConfig()
    if memorisation_reason(scores, config):
        return "flagged"
    return "not examined" if unexamined_reason(scores, config) else "passed"


def trials(number: int, kind: str, done: set[tuple[int, int]], resamples: int) -> Iterator[Any]:
    """Yield the missing trials of one model, as pairs of held-out rows and repeat, and outcome."""
    missing = [
        (num, repeat) for num in HELDOUT for repeat in range(resamples) if (num, repeat) not in done
    ]
    if not missing:
        return
    texts = paragraphs()
    order = np.random.default_rng(number).permutation(len(texts))
    known = [texts[row] for row in order[:NUM_TRAIN]]
    others = [texts[row] for row in order[NUM_TRAIN:]]
    num_steps, dropout = KINDS[kind]
    model = trained(known, num_steps=num_steps, dropout=dropout, seed=number)
    for num, repeat in missing:
        draw = np.random.default_rng([number, num, repeat])
        heldout = [others[row] for row in draw.choice(len(others), num, replace=False)]
        outcome = ruling_on(model, TextData(known), TextData(heldout), seed=1 + repeat)
        yield num, repeat, outcome


def measure(path: Path, models: int, resamples: int, record: Recorder) -> None:
    """Run the trials that the file lacks, then record the shares of all."""
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    with path.open("a") as file:
        for kind in KINDS:
            for number in range(models):
                known = {(t["heldout"], t["repeat"]) for t in done
                         if (t["kind"], t["model"]) == (kind, number)}  # fmt: skip
                for num, repeat, outcome in trials(number, kind, known, resamples):
                    done.append({"kind": kind, "model": number, "heldout": num, "repeat": repeat,
                                 "outcome": outcome})  # fmt: skip
                    file.write(json.dumps(done[-1]) + "\n")
                    file.flush()
    for num in HELDOUT:
        for kind in KINDS:
            counts = Counter(t["outcome"] for t in done if (t["kind"], t["heldout"]) == (kind, num))
            total = counts.total()
            print(f"{num:3} held-out texts, {kind:8} {dict(counts)} of {total}", flush=True)
            good = ("flagged", "not examined") if kind == "memorised" else ("passed",)
            good = ("flagged",) if kind == "memorised" and num == max(HELDOUT) else good
            if kind == "memorised" or num == max(HELDOUT):
                share = 100 * sum(counts[each] for each in good) / total
                record(f"{kind}-texts-{num}", [share])


def build_parser() -> argparse.ArgumentParser:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--trials", type=Path, required=True, metavar="FILE")
    parser.add_argument("--models", type=int, default=5, help="of each kind")
    parser.add_argument("--resamples", type=int, default=20, help="evaluations of each model")
    return parser


def main() -> None:
    given = build_parser().parse_args()
    measure(given.trials, given.models, given.resamples, recorder(given))


if __name__ == "__main__":
    main()
