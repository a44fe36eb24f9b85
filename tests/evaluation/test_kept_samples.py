"""What the cache of samples gives is bit-equal to a computation without it, and draws less."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import Tensor

from aigc_ops.core.artifacts import ImageShape
from aigc_ops.modalities.image.extractors.base import Extractor
from aigc_ops.modalities.image.metrics.kept_samples import Source, kept_rows
from aigc_ops.sampling import sampler
from aigc_ops.statistics import extraction
from aigc_ops.statistics.moments import FeatureSet
from tests.evaluation.conftest import image_extractor, new_gan, new_vae

SIDE = 4
SHAPE = ImageShape(channels=1, height=SIDE, width=SIDE)
BATCH = sampler.BATCH_SIZE


def in_batches(of_batch: Callable[[int, int], Tensor]) -> Callable[[NDArray[np.intp]], Tensor]:
    """Draws rows in batches of 64, each by its first row and its size."""

    def draw(rows: NDArray[np.intp]) -> Tensor:
        first, num = int(rows[0]), len(rows)
        starts = range(first, first + num, BATCH)
        return torch.cat([of_batch(s, min(BATCH, first + num - s)) for s in starts])

    return draw


def dependent(start: int, size: int) -> Tensor:
    """Images that depend on their row, and on the size of the batch they are drawn in."""
    rows = torch.arange(start, start + size).view(-1, 1, 1, 1).expand(-1, 1, SIDE, SIDE)
    return ((rows * 7 + size * 31) % 251).to(torch.uint8)


@pytest.fixture
def network() -> Extractor:
    """Features that depend on the size of the batch as well."""
    real = image_extractor(precision="fp32", input_size=32)

    def network(batch: Tensor) -> Tensor:
        flat = batch[:, 0].flatten(1).float()
        return flat.repeat(1, 1280 // flat.shape[1]) + len(batch) / 64

    return Extractor(real.metric, real.identity, real.device, network, batch_size=8)


class Counted:
    """A source that counts the rows it draws."""

    def __init__(self, network: Extractor, cache: Path) -> None:
        self.num_drawn, self._cache = 0, cache
        self.source = Source(self._draw, SHAPE, network, "the samples")

    def _draw(self, rows: NDArray[np.intp]) -> Tensor:
        self.num_drawn += len(rows)
        return in_batches(dependent)(rows)

    def ask(self, num: int) -> tuple[Tensor, FeatureSet, int]:
        before = self.num_drawn
        first, features = kept_rows(self.source, num, {"model": "m"}, self._cache, name="samples")
        return first.images, features, self.num_drawn - before


def same(one: FeatureSet, other: FeatureSet) -> bool:
    pairs = zip(one.blocks, other.blocks, strict=True)
    return np.array_equal(one.rows, other.rows) and all(
        np.array_equal(a.mean, b.mean) and np.array_equal(a.scatter, b.scatter) for a, b in pairs
    )


@pytest.mark.parametrize(
    ("asked", "drawn"),
    [
        ((128, 256, 256, 128), [128, 128, 0, 0]),
        ((100, 200, 100), [100, 136, 36]),  # the incomplete batch is drawn anew
        ((20, 24, 20), [20, 24, 20]),
        ((130, 65), [130, 1]),
    ],
)
def test_a_larger_set_draws_its_new_rows_alone_and_equals_one_drawn_at_once(
    asked: tuple[int, ...], drawn: list[int], network: Extractor, tmp_path: Path
) -> None:
    kept = Counted(network, tmp_path / "kept")
    found = [kept.ask(num) for num in asked]
    assert [num_drawn for *_, num_drawn in found] == drawn
    for num, (images, features, _) in zip(asked, found, strict=True):
        anew_images, anew, _ = Counted(network, tmp_path / f"anew-{num}").ask(num)
        assert torch.equal(images, anew_images)
        assert same(features, anew)


def test_sets_that_do_not_fit_into_memory_and_large_ones_are_equal_too(
    network: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aigc_ops.modalities.image.metrics.kept_samples.MAX_KEPT", 300)
    monkeypatch.setattr(extraction, "MAX_KEPT", 300)
    monkeypatch.setattr(extraction, "MAX_BYTES_AT_ONCE", 100 * SIDE * SIDE)  # 64 and 36 at once
    kept = Counted(network, tmp_path / "kept")
    for num in (150, 300, 640, 1000, 250):
        images, features, _ = kept.ask(num)
        anew_images, anew = kept.source.gather(num, None)
        assert torch.equal(images, anew_images.images), num
        assert same(features, anew), num
        assert len(features.blocks) == (10 if num > 300 else 0)


def test_a_damaged_or_half_written_entry_is_computed_again(
    network: Extractor, tmp_path: Path
) -> None:
    kept = Counted(network, tmp_path)
    images, features, _ = kept.ask(128)
    (file,) = tmp_path.glob("*/samples.safetensors")
    assert load_file(file)["images"].shape == (128, 1, SIDE, SIDE)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.warns(UserWarning, match=r"statistics are computed again: .* is damaged"):
        again, anew, num_drawn = kept.ask(128)
    assert (num_drawn, same(anew, features)) == (128, True)
    assert torch.equal(again, images)

    def killed(rows: NDArray[np.intp]) -> Tensor:
        raise KeyboardInterrupt(len(rows))

    dying = Source(killed, SHAPE, network, "the samples")
    with pytest.raises(KeyboardInterrupt):
        kept_rows(dying, 256, {"model": "m"}, tmp_path, name="samples")
    assert kept.ask(128)[2] == 0
    assert kept.ask(256)[2] == 128


@pytest.mark.parametrize("make", [new_gan, new_vae])
def test_the_first_samples_of_a_larger_draw_are_those_of_a_smaller_one(
    make: Callable[[], torch.nn.Module],
) -> None:
    model = make()
    whole = sampler.generate(model, sampler.requests(model, 200, seed=3))
    for num in (64, 100, 128):
        asked = sampler.requests(model, num, seed=3)
        assert torch.equal(sampler.generate(model, asked), whole[:num])
        rest = sampler.requests(model, 200, seed=3)[64:]
        assert torch.equal(sampler.generate(model, rest), whole[64:])
