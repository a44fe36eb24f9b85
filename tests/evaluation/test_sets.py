"""`score`: two sets of images from anywhere, with the field's own numbers."""

import io
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from aigc_ops.core.errors import DataError, EvaluationError
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.modalities.image.extractors.loading import load_extractor
from aigc_ops.modalities.image.image_sets import ImageSet
from aigc_ops.modalities.image.metrics import set_features
from aigc_ops.modalities.image.metrics.compare_sets import METRICS, score_sets
from aigc_ops.modalities.image.metrics.set_features import image_set_features
from aigc_ops.statistics.moments import FeatureSet, Moments, merged
from tests.conftest import CHILDREN

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fewer than the extractor:UserWarning"),
    pytest.mark.usefixtures("folded_once"),
]
NUM = 20
NAME = "fd_efficientnet_lite0"


def pictures(seed: int, *, num: int = NUM, size: int = 32) -> np.ndarray:
    """Coloured blobs (N, H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (num, 4, 4, 3), dtype=np.uint8)
    big = [np.asarray(Image.fromarray(each).resize((size, size))) for each in small]
    return np.stack(big)


def write(images: np.ndarray, path: Path) -> Path:
    """The images as a folder, zip, Parquet, npy or npz."""
    encoded = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="PNG")
        encoded.append(buffer.getvalue())
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for index, content in enumerate(encoded):
                archive.writestr(f"inner/{index:04d}.png", content)
    elif path.suffix == ".parquet":
        pd.DataFrame({"image": [{"bytes": content} for content in encoded]}).to_parquet(path)
    elif path.suffix == ".npy":
        np.save(path, images)
    elif path.suffix == ".npz":
        np.savez(path, images)
    else:
        path.mkdir()
        for index, content in enumerate(encoded):
            (path / f"{index:04d}.png").write_bytes(content)
    return path


def scored(real: Path, fake: Path, cache: Path, *, metrics: Any = ("fid",), **settings: Any) -> Any:
    skip = settings.pop("skip", False)
    config = EvaluationConfig(device="cpu", precision="fp32", image={"input_size": 32, **settings})
    sets = ImageSet(real, skip_damaged=skip), ImageSet(fake)
    return score_sets(*sets, metrics, config.section("image"), config, cache=cache)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_the_values_are_torch_fidelitys(tmp_path: Path, random_weights: Path) -> None:
    import torch_fidelity

    num = 12
    real = write(pictures(0, num=num), tmp_path / "real")
    fake = write(pictures(1, num=num, size=40), tmp_path / "fake")
    theirs = torch_fidelity.calculate_metrics(
        input1=str(fake),
        input2=str(real),
        cuda=False,
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        kid_subset_size=num,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(random_weights),
        cache=False,
        verbose=False,
    )
    ours = scored(
        real,
        fake,
        tmp_path / "cache",
        metrics=METRICS,
        extractor="inception-v3",
        input_size=None,
        inception_weights=str(random_weights),
    )
    (distance,) = (name for name in ours if name.startswith("fd_inception_v3_"))
    expected = {
        distance: "frechet_inception_distance",
        distance.replace("fd_", "kd_"): "kernel_inception_distance_mean",
        distance.replace("fd_inception_v3", "inception_score"): "inception_score_mean",
        "precision": "precision",
        "recall": "recall",
    }
    for name, key in expected.items():
        assert ours[name].value == pytest.approx(theirs[key], rel=1e-4, abs=1e-7), name
    assert "fid" not in ours


@pytest.mark.parametrize("kind", ["set.zip", "set.parquet", "set.npy", "set.npz"])
def test_the_same_images_are_the_same_wherever_they_lie(tmp_path: Path, kind: str) -> None:
    images = pictures(0)
    folder = list(ImageSet(write(images, tmp_path / "folder")).images())
    other = list(ImageSet(write(images, tmp_path / kind)).images())
    assert len(folder) == len(other) == NUM
    assert all(np.array_equal(a, b) for a, b in zip(folder, other, strict=True))
    assert folder[0].shape == (3, 32, 32)


@pytest.mark.parametrize("kind", ["folder", "set.zip", "set.parquet", "set.npy", "set.npz"])
def test_a_run_of_a_set_is_that_part_of_it(tmp_path: Path, kind: str) -> None:
    path = write(pictures(0), tmp_path / kind)
    if kind == "set.parquet":
        pd.read_parquet(path).to_parquet(path, row_group_size=6)
    collection = ImageSet(path)
    every = list(collection.images())
    assert len(collection) == len(every) == NUM
    for places in ([0], [*range(5, 13)], [1, 6, 7, 18], [19], []):
        part = list(collection.images(places))
        assert len(part) == len(places)
        assert all(np.array_equal(a, every[b]) for a, b in zip(part, places, strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*1 damaged images:UserWarning")
def test_a_large_set_is_the_same_read_by_one_process_or_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = write(pictures(0, num=60), tmp_path / "real")
    (real / "0031.png").write_bytes(b"no image")
    collection = ImageSet(real, skip_damaged=True)
    config = EvaluationConfig(device="cpu", precision="fp32", image={"input_size": 32})
    image = config.section("image")
    extractor = load_extractor(image, config)

    def features(num_processes: int) -> FeatureSet:
        return image_set_features(collection, extractor, image, config, num_processes=num_processes)

    # Its processes have no need to import all anew.
    monkeypatch.setattr(set_features.multiprocessing, "get_context", lambda _: CHILDREN)
    whole = Moments.of_features(features(1).rows)
    # Of sets above this bound moments of ten runs are kept, and some of the rows.
    monkeypatch.setattr("aigc_ops.statistics.extraction.MAX_KEPT", 12)
    one, two = features(1), features(2)
    for found in (one, two):
        assert found.num == whole.num == 59
        assert (len(found.blocks), len(found.rows)) == (10, 12)
        together = merged(found.blocks)
        np.testing.assert_allclose(together.mean, whole.mean, atol=1e-5)
        largest = np.abs(whole.scatter).max()
        np.testing.assert_allclose(together.scatter, whole.scatter, atol=1e-5 * largest)
    np.testing.assert_allclose(one.rows, two.rows, atol=1e-5)


def test_a_distance_is_symmetric_and_the_real_set_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, fake = write(pictures(0), tmp_path / "real"), write(pictures(1), tmp_path / "fake.npy")
    away = scored(real, fake, tmp_path / "cache")[NAME]
    back = scored(fake, real, tmp_path / "cache")[NAME]
    assert away.value == pytest.approx(back.value, rel=1e-6)
    opened = []
    images = ImageSet.images
    monkeypatch.setattr(
        ImageSet, "images", lambda self, *span: opened.append(self) or images(self, *span)
    )
    again = scored(real, fake, tmp_path / "cache")[NAME]
    assert again == away
    assert [each.path.name for each in opened] == ["fake.npy"]


def test_a_changed_set_is_another_reference(tmp_path: Path) -> None:
    real, fake = write(pictures(0), tmp_path / "real"), write(pictures(1), tmp_path / "fake")
    before = scored(real, fake, tmp_path / "cache")[NAME]
    Image.fromarray(pictures(5)[0]).save(real / "0000.png")
    after = scored(real, fake, tmp_path / "cache")[NAME]
    assert before.contract["reference"] != after.contract["reference"]
    assert before.value != after.value


def test_damaged_images_are_named_or_passed_over_and_counted(tmp_path: Path) -> None:
    real, fake = write(pictures(0), tmp_path / "real"), write(pictures(1), tmp_path / "fake")
    (real / "0003.png").write_bytes((real / "0003.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"0003\.png: .*--skip-damaged"):
        scored(real, fake, tmp_path / "cache")
    with pytest.warns(UserWarning, match=r"1 damaged images were skipped: .*0003\.png"):
        found = scored(real, fake, tmp_path / "cache", skip=True)
    again = scored(real, fake, tmp_path / "cache", skip=True)  # with the reference kept
    for each in (found, again):
        assert each[NAME].contract["num_reference"] == NUM - 1
        assert each[NAME].contract["num_reference_damaged"] == 1
        assert "num_damaged" not in each[NAME].contract


@pytest.mark.filterwarnings("ignore:.*1 damaged images:UserWarning")
def test_a_link_that_leads_nowhere_is_a_damaged_image(tmp_path: Path) -> None:
    real, fake = write(pictures(0), tmp_path / "real"), write(pictures(1), tmp_path / "fake")
    (real / "link.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"link\.png: cannot be read"):
        scored(real, fake, tmp_path / "cache")
    found = scored(real, fake, tmp_path / "cache", skip=True)
    assert found[NAME].contract["num_reference_damaged"] == 1


def test_sets_of_mixed_sizes_are_scored(tmp_path: Path) -> None:
    real = write(pictures(0), tmp_path / "real")
    for index in range(0, NUM, 3):
        Image.fromarray(pictures(2, num=1, size=50)[0]).save(real / f"{index:04d}.png")
    # The same pixels in other files, since equal sets are refused.
    copy = shutil.copytree(real, tmp_path / "copy")
    Image.open(real / "0000.png").save(copy / "0000.png", compress_level=0)
    assert scored(real, copy, tmp_path / "cache")[NAME].value < 1e-3


def test_black_images_have_a_distance(tmp_path: Path) -> None:
    black = np.zeros((NUM, 32, 32), np.uint8)
    np.save(tmp_path / "black.npy", black)
    real = write(pictures(0), tmp_path / "real")
    found = scored(real, tmp_path / "black.npy", tmp_path / "cache", metrics=("fid", "kid", "prc"))
    assert found[NAME].value > 1
    assert found["near_duplicates"].value == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "absent", "does not exist"),
        (lambda p: write(pictures(0, num=1), p / "one"), "holds 1 images; use at least 2"),
        (lambda p: _written(p / "a.txt", b"x"), "expected a folder, zip"),
        (lambda p: _written(p / "a.zip", b"PK\3\4 cut"), "not a whole zip"),
        (lambda p: _written(p / "a.parquet", b""), "not a whole Parquet file"),
        (lambda p: _written(p / "a.parquet", b"PAR1 cut short, so no end"), "not a whole Parquet"),
        (lambda p: _written(p / "a.npy", b"junk"), "not a NumPy file of plain numbers"),
        (lambda p: _saved(p / "f.npy", np.zeros((3, 4, 4), np.float32)), "float32 of shape"),
        (lambda p: _saved(p / "o.npy", np.array([{}, {}])), "plain numbers"),
        (lambda p: _saved(p / "c.npy", np.asfortranarray(pictures(0))), "stored in Fortran order"),
        (lambda p: _saved(p / "z.npy", np.zeros((9, 0, 4, 3), np.uint8)), "have no pixels"),
        (lambda p: _cut(_saved(p / "t.npy", pictures(0))), "cut short"),
        (lambda p: _cut(_zipped(p / "t.npz", pictures(0))), "not a NumPy file"),
        (lambda p: _zipped(p / "n.npz", pictures(0), "x"), "arr_0, images, samples; found x"),
        (lambda p: (p / "none").mkdir() or p / "none", "holds 0 images; use at least 2"),
    ],
)
def test_what_is_no_set_of_images_is_refused(tmp_path: Path, make: Any, message: str) -> None:
    real = write(pictures(0), tmp_path / "real")
    with pytest.raises((DataError, EvaluationError), match=message):
        scored(real, make(tmp_path), tmp_path / "cache")


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array, allow_pickle=True)
    return path


def _zipped(path: Path, array: np.ndarray, name: str = "images") -> Path:
    np.savez_compressed(path, **{name: array})
    return path


def _cut(path: Path) -> Path:
    return _written(path, path.read_bytes()[:-200])


def test_the_inception_score_needs_inception(tmp_path: Path) -> None:
    real, fake = write(pictures(0), tmp_path / "real"), write(pictures(1), tmp_path / "fake")
    with pytest.raises(EvaluationError, match="use --extractor inception-v3"):
        scored(real, fake, tmp_path / "cache", metrics=("isc",))


def test_the_resizers_are_pillows_and_torchs() -> None:
    from aigc_ops.modalities.image.extractors.resizing import RESIZERS

    images = torch.from_numpy(pictures(0, num=2)).permute(0, 3, 1, 2)
    clean = RESIZERS["clean"](images)
    channel = Image.fromarray(images[1, 2].numpy().astype(np.float32)).resize((299, 299), 3)
    expected = (np.asarray(channel).clip(0, 255) - 128) / 128
    np.testing.assert_allclose(clean[1, 2].numpy(), expected, atol=1e-6)
    assert RESIZERS["legacy"](images).abs().max() < 1 + 1e-5
    assert not torch.allclose(RESIZERS["tensorflow"](images), clean, atol=0.01)


def test_images_that_lie_by_class_have_the_interval_of_shuffled_ones(tmp_path: Path) -> None:
    dark, light = pictures(1, num=80) // 3, 255 - pictures(2, num=80) // 3
    by_class = np.concatenate([dark, light])
    real = write(pictures(0), tmp_path / "real.npy")
    widths = {}
    for name, order in {
        "by class": np.arange(160),
        "shuffled": np.random.default_rng(3).permutation(160),
    }.items():
        fake = write(by_class[order], tmp_path / f"{name}.npy")
        scores = scored(
            real, fake, tmp_path / "cache", metrics=("fid", "kid", "prc"), input_size=32
        )
        widths[name] = {key: score.high - score.low for key, score in scores.items()}
        assert {"n", "extractor", "reference", "seed", "version"} <= scores[
            "recall"
        ].contract.keys()
    for key in ("fd_efficientnet_lite0", "kd_efficientnet_lite0"):
        assert widths["by class"][key] < 2 * widths["shuffled"][key], key


def test_images_are_taken_as_pillow_converts_them(tmp_path: Path) -> None:
    """So the field's tools take them: transparency dropped, orientation not followed."""
    pixels = pictures(0, num=1)[0]
    alpha = np.dstack([pixels, np.full(pixels.shape[:2], 60, np.uint8)])
    (tmp_path / "a").mkdir()
    Image.fromarray(alpha).save(tmp_path / "a" / "0.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a" / "1.jpg", exif=exif, quality=95)
    for index, found in enumerate(ImageSet(tmp_path / "a").images()):
        with Image.open(sorted((tmp_path / "a").iterdir())[index]) as image:
            np.testing.assert_array_equal(
                found.transpose(1, 2, 0), np.asarray(image.convert("RGB"))
            )


@pytest.mark.filterwarnings("ignore:.*1 damaged images:UserWarning")
def test_a_damaged_image_in_a_zip_is_passed_over_like_one_in_a_folder(tmp_path: Path) -> None:
    path = write(pictures(0), tmp_path / "set.zip")
    with zipfile.ZipFile(path) as archive:
        place = archive.infolist()[3].header_offset + 60
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)
    collection = ImageSet(path, skip_damaged=True)
    assert len(list(collection.images())) == NUM - 1
    assert len(collection.skipped) == 1
    with pytest.raises(DataError, match="--skip-damaged"):
        list(ImageSet(path).images())
