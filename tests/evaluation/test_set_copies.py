"""`score --metrics copies` finds images of one set in another, and says what it would find."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aigc_ops.core.errors import EvaluationError
from aigc_ops.modalities.image.image_sets import ImageSet
from aigc_ops.modalities.image.metrics.alterations import altered
from aigc_ops.modalities.image.metrics.set_copies import set_copies
from tests.evaluation.test_memorisation import digits
from tests.evaluation.test_sets import scored


def write(images: torch.Tensor, folder: Path) -> ImageSet:
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(folder / f"{index:04d}.png")
    return ImageSet(folder)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return write(digits()[:800], tmp_path_factory.mktemp("real") / "digits")


def test_altered_and_equal_copies_are_counted(real: ImageSet, tmp_path: Path) -> None:
    images = digits()
    copied = torch.cat([images[:10], altered(images[100:160], "mirrored"), images[2000:2230]])
    values = set_copies(real, write(copied, tmp_path / "fake"), reference="r")
    assert values["exact_copies"].value == 10 / 300
    assert values["copies_in_aligned"].value == pytest.approx(70 / 300, abs=0.03)
    assert values["copies_in_pixels"].value < 0.1  # mirrored digits are no copies there
    assert values["copy_power"].value > 0.9


def test_other_digits_are_no_copies(real: ImageSet, tmp_path: Path) -> None:
    values = set_copies(real, write(digits()[2000:2300], tmp_path / "fake"), reference="r")
    assert values["exact_copies"].value == 0
    near = values["copies_in_aligned"]
    assert near.low < float(str(near.contract["expected"])) + 0.03  # the limit of a warning


def test_few_images_are_compared_for_equality_alone(tmp_path: Path) -> None:
    images = digits()
    few, fake = write(images[:20], tmp_path / "few"), write(images[10:30], tmp_path / "fake")
    values = set_copies(few, fake, reference="r")
    assert {name: score.value for name, score in values.items()} == {"exact_copies": 0.5}


def test_images_of_other_sizes_are_averaged_to_the_smallest(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (600, 1, 64, 64), dtype=np.uint8)
    large = torch.from_numpy(noise).float()
    large = torch.nn.functional.avg_pool2d(large, 9, 1, 4).mul(1.5).clamp(0, 255).to(torch.uint8)
    halved = torch.nn.functional.avg_pool2d(large[:50].float(), 2).to(torch.uint8)
    sets = write(large, tmp_path / "large"), write(halved, tmp_path / "halved")
    assert set_copies(*sets, reference="r")["copies_in_pixels"].value == 1


def test_equal_sets_are_refused_by_name(tmp_path: Path) -> None:
    images = digits()[:20]
    write(images, tmp_path / "one")
    write(images, tmp_path / "two")
    with pytest.raises(EvaluationError, match="REAL and FAKE hold the same images"):
        scored(tmp_path / "one", tmp_path / "two", tmp_path / "cache")
