"""How often copies of training images, and memorised texts, are found by an evaluation.

    python benchmarks/copies.py [PART ...] [--repeats N] [--icons FOLDER] [--trials FILE]

The parts: images, altered, texts; images and texts by default. `altered` needs the folder that
benchmarks/icons.py makes. It appends each trial to a file of JSON lines, and resumes from it.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluation import digits, image_extractor
from numpy.typing import NDArray
from PIL import Image
from results import Recorder, benchmark_parser, recorder
from torch import Tensor

from aigc_ops.compute.random import Noise
from aigc_ops.modalities.image.metrics.alterations import ALTERATIONS, altered
from aigc_ops.modalities.image.metrics.memorisation import (
    NUM_PLANTED,
    CopyControls,
    ImageFeatures,
    Memorisation,
    copy_controls,
    counted,
    detect_copies,
)
from aigc_ops.modalities.text.metrics.verbatim import detect_verbatim_copies
from aigc_ops.modalities.text.model import TextData
from aigc_ops.models.gpt import Gpt, GptConfig
from aigc_ops.statistics.reference import reference_rows

SHARE = 0.1
REQUIRED = (
    "mirrored", "shifted by 1 pixel", "shifted by 2 pixels", "crop of 90 %", "JPEG 30", "jitter",
)  # fmt: skip


@dataclass(frozen=True)
class Deal:
    """One split of a set of images: trained on, held out, and clean samples."""

    train: ImageFeatures
    controls: CopyControls
    clean: ImageFeatures


class Deck:
    """A set of images that is dealt out anew again and again.

    The first `num_fixed` images are always trained on: their altered copies are made once.
    """

    def __init__(self, pixels: Tensor, sizes: Sequence[int], num_fixed: int) -> None:
        self._extractor, self._sizes, self._num_fixed = image_extractor(), sizes, num_fixed
        self._all = self.pictured(pixels)
        self._planted: NDArray[Any] | None = None

    def pictured(self, pixels: Tensor) -> ImageFeatures:
        return ImageFeatures(pixels, self._extractor.features(pixels, what="images"))

    def fixed(self, num: int) -> Tensor:
        """The last of the images that are always trained on, which are not those planted."""
        return self._all.images[self._num_fixed - num : self._num_fixed]

    def deal(self, seed: int) -> Deal:
        generator = torch.Generator().manual_seed(seed)
        num_train, num_heldout, num_clean = self._sizes
        others = self._num_fixed + torch.randperm(
            len(self._all) - self._num_fixed, generator=generator
        )
        # The fixed images stand where the check takes the images of which it plants copies.
        planted = reference_rows(num_train, NUM_PLANTED)
        train = torch.full((num_train,), -1)
        train[planted] = torch.arange(NUM_PLANTED)
        fixed = torch.arange(NUM_PLANTED, self._num_fixed)
        train[train < 0] = torch.cat([fixed, others])[: num_train - NUM_PLANTED]
        rest = others[num_train - self._num_fixed :]
        train_part = self._rows(train)
        controls = copy_controls(train_part, self._rows(rest[:num_heldout]), self._features)
        assert controls is not None
        return Deal(train_part, controls, self._rows(rest[num_heldout:][:num_clean]))

    def _rows(self, index: Tensor) -> ImageFeatures:
        return ImageFeatures(self._all.images[index], self._all.features[index.numpy()])

    def _features(self, planted: Tensor) -> NDArray[Any]:
        if self._planted is None:
            self._planted = np.asarray(self._extractor.features(planted, what="planted copies"))
        return self._planted


def joined(*parts: ImageFeatures) -> ImageFeatures:
    return ImageFeatures(
        torch.cat([part.images for part in parts]),
        np.concatenate([part.features for part in parts]),
    )


def first(images: ImageFeatures, num: int) -> ImageFeatures:
    return ImageFeatures(images.images[:num], images.features[:num])


def digit_deck() -> Deck:
    return Deck(digits(4500)[0], (3000, 500, 1000), num_fixed=NUM_PLANTED + 200)


def images(record: Recorder, repeats: int = 100) -> None:
    """How often copying is found where a share of the samples are altered copies, and where none.

    Each repeat deals the real digits out anew: 3,000 trained on, 500 held out, 1,000 samples,
    of which a share is replaced by training digits, darker and with noise.
    """
    deck, num_clean = digit_deck(), 1000
    noise = 4 * torch.randn(200, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    darker = (0.97 * deck.fixed(200) + noise).round().clamp(0, 255).to(torch.uint8)
    copied, shares = deck.pictured(darker), (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
    flagged = dict.fromkeys(shares, 0)
    for seed in range(repeats):
        deal = deck.deal(seed)
        for share in shares:
            num = round(share * num_clean)
            samples = joined(first(copied, num), first(deal.clean, num_clean - num))
            flagged[share] += detect_copies(
                samples, deal.train, deal.controls, num_all=len(deal.train)
            )[0].flagged
    for share, num in flagged.items():
        print(f"{share:4.0%} copies: flagged in {num} of {repeats}", flush=True)
        record(f"copies-{100 * share:.0f}", [100 * num / repeats])


def altered_copies(
    record: Recorder, repeats: int = 200, icons: Path | None = None, trials: Path | None = None
) -> None:
    """How often a tenth of altered copies is flagged, among digits and among icons.

    Each trial deals the images out anew. Beside it stands the share of single copies found.
    """
    if icons is None or trials is None:
        raise SystemExit("altered: give --icons FOLDER (see benchmarks/icons.py) and --trials FILE")
    done = [json.loads(line) for line in trials.read_text().splitlines()] if trials.exists() else []
    with trials.open("a") as file:
        for name, deck in (("digits", digit_deck), ("icons", lambda: icon_deck(icons))):
            known = {trial["seed"] for trial in done if trial["set"] == name}
            missing = [seed for seed in range(repeats) if seed not in known]
            for trial in _trials(deck(), missing) if missing else ():
                done.append({"set": name, **trial})
                file.write(json.dumps(done[-1]) + "\n")
                file.flush()
    for name in ("digits", "icons"):
        _summarise(name, [trial for trial in done if trial["set"] == name], record)


def icon_deck(folder: Path) -> Deck:
    pictures = [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]
    order = np.random.default_rng(0).permutation(len(pictures))
    pixels = torch.from_numpy(np.stack(pictures)[order]).permute(0, 3, 1, 2).contiguous()
    return Deck(pixels, (1125, 286, 500), num_fixed=NUM_PLANTED + 50)


def _trials(deck: Deck, seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield what is flagged and found in each trial."""
    num_clean = len(deck.deal(0).clean)
    num = round(SHARE * num_clean)
    copies = {name: deck.pictured(altered(deck.fixed(num), name)) for name in ALTERATIONS}
    for seed in seeds:
        deal = deck.deal(seed)
        clean = deal.clean
        parts = {
            "kept": ImageFeatures(clean.images[num:], clean.features[num:]),
            "replaced": first(clean, num),
            **copies,
        }
        results = {
            name: detect_copies(each, deal.train, deal.controls, num_all=len(deal.train))[0]
            for name, each in parts.items()
        }
        yield {
            "seed": seed,
            "clean": _flagged(results["kept"], results["replaced"], deal.controls),
            "flagged": {
                name: _flagged(results["kept"], results[name], deal.controls) for name in copies
            },
            "found": deal.controls.found(),
        }


def _flagged(part: Memorisation, other: Memorisation, controls: CopyControls) -> bool:
    """Whether both parts together have too many near copies, in any space."""
    total = part.num_samples + other.num_samples
    return any(
        counted(part.copies[space].num + other.copies[space].num, total, bound).flagged
        for space, bound in controls.bounds().items()
    )


def _summarise(name: str, trials: Sequence[dict[str, Any]], record: Recorder) -> None:
    flagged = {
        each: 100 * np.mean([trial["flagged"][each] for trial in trials]) for each in ALTERATIONS
    }
    print(f"{name}, {len(trials)} trials: flagged with a tenth of copies; single copies found")
    for each in ALTERATIONS:
        found = 100 * np.mean([trial["found"][each] for trial in trials])
        print(f"  {each:20} {flagged[each]:4.0f} % {found:4.0f} %")
    clean = 100 * float(np.mean([trial["clean"] for trial in trials]))
    print(f"  {'no copies':20} {clean:4.1f} %", flush=True)
    record(f"altered-{name}", [min(flagged[each] for each in REQUIRED)])
    record(f"altered-{name}-clean", [clean])


def texts(record: Recorder, repeats: int = 50) -> None:
    """Record how often a GPT that has memorised a share of its texts, or none, is flagged.

    Each repeat draws texts of 24 random syllables anew: 80 of training, 60 held out. A small GPT
    has seen a share of the first a hundred times (of none: 20 others), the rest never.
    """
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    for share in (0.0, 0.025, 0.05, 0.1, 0.25):
        flagged = 0
        for seed in range(repeats):
            draw = random.Random(seed)
            train, heldout, others = (
                [" ".join(draw.choices(syllables, k=24)) for _ in range(num)]
                for num in (80, 60, 20)
            )
            model = _taught(train[: round(share * len(train))] or others, num_steps=100)
            data = TextData(train), TextData(heldout)
            found = detect_verbatim_copies(model, *data, num=len(train))
            assert not isinstance(found, str), found
            flagged += found[0].flagged
        print(f"{share:5.1%} memorised: flagged in {flagged} of {repeats}", flush=True)
        record(f"memorised-{1000 * share:.0f}", [100 * flagged / repeats])


def _taught(known: list[str], *, num_steps: int) -> Gpt:
    """Return a GPT of two layers, trained for `num_steps` on all of these texts."""
    torch.manual_seed(0)
    config = GptConfig(
        vocab_size=384, context_length=64, num_layers=2, num_heads=4, width=64, dropout=0.0,
        optimizer={"learning_rate": 3e-3},
    )  # fmt: skip
    model = Gpt.from_data(config, TextData(known))
    examples, optimizer = model.examples(TextData(known)), model.optimizer("network")
    noise = Noise(0, rows=torch.arange(1), batch_size=1, device=torch.device("cpu"))
    for _ in range(num_steps):
        (loss,) = model.losses(examples, noise)
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    return model.eval()


PARTS: dict[str, Callable[..., None]] = {
    "images": images,
    "altered": altered_copies,
    "texts": texts,
}


def build_parser() -> argparse.ArgumentParser:
    parser = benchmark_parser(__doc__, PARTS)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--icons", type=Path, metavar="FOLDER", help="for the part `altered`")
    parser.add_argument("--trials", type=Path, metavar="FILE", help="for the part `altered`")
    return parser


def main() -> None:
    given = build_parser().parse_args()
    record = recorder(given)
    for part in given.parts or ("images", "texts"):
        options: dict[str, Any] = {"repeats": given.repeats} if given.repeats else {}
        if part == "altered":
            options |= {"icons": given.icons, "trials": given.trials}
        PARTS[part](record, **options)


if __name__ == "__main__":
    main()
