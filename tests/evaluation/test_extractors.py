import functools
import hashlib
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from aigc_ops.core.errors import EvaluationError
from aigc_ops.modalities.image.extractors import weights
from aigc_ops.modalities.image.extractors.base import Extractor
from aigc_ops.statistics.frechet import Gaussian, frechet_distance
from tests.evaluation.conftest import INCEPTION_FILE, image_extractor


@pytest.fixture(scope="module")
def packaged_features(digits: Tensor) -> np.ndarray:
    """Features by the network as its package gives it: fp32, batch norm unfolded."""
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0", image_size=128)
    network.load_state_dict(weights.efficientnet_weights())
    network.eval()
    pixels = functional.interpolate(
        digits.repeat(1, 3, 1, 1).float(), size=(128, 128), mode="bilinear", antialias=True
    )
    with torch.inference_mode():
        return network.extract_features((pixels - 127) / 128).mean(dim=(2, 3)).numpy()


def test_folding_changes_features_by_rounding_alone(
    extractor: Extractor, digits: Tensor, packaged_features: np.ndarray
) -> None:
    features = extractor.features(digits, what="the digits")
    np.testing.assert_allclose(features, packaged_features, atol=1e-3)


def test_bf16_keeps_distances_within_a_twentieth(extractor: Extractor, digits: Tensor) -> None:
    bf16 = image_extractor(precision="bf16")
    generator = torch.Generator().manual_seed(0)
    noise = 5 * torch.randn(digits.shape, generator=generator)
    faint = (digits + noise).clamp(0, 255).to(torch.uint8)
    distances: dict[str, list[float]] = {}
    for judge in (extractor, bf16):
        plain, noisy = (judge.features(i, what="digits") for i in (digits, faint))
        halves = Gaussian.of_features(plain[:30]), Gaussian.of_features(plain[30:])
        whole = Gaussian.of_features(plain), Gaussian.of_features(noisy)
        precision = judge.identity.precision
        distances[precision] = [frechet_distance(*halves), frechet_distance(*whole)]
    # Measured with 200 against 200: 1 % each way; 31 % with the first layers in bf16 too.
    assert distances["bf16"] == pytest.approx(distances["fp32"], rel=0.05)


def test_features_depend_on_neither_batch_nor_repetition(
    extractor: Extractor, digits: Tensor
) -> None:
    whole = extractor.features(digits[:20], what="the digits")
    again = extractor.features(digits[:20], what="the digits")
    alone = extractor.features(digits[19:20], what="a digit")
    np.testing.assert_array_equal(whole, again)
    np.testing.assert_allclose(whole[19:], alone, atol=1e-4)


def test_grey_images_count_as_equal_colours(extractor: Extractor, digits: Tensor) -> None:
    grey = extractor.features(digits[:4], what="grey digits")
    colour = extractor.features(digits[:4].repeat(1, 3, 1, 1), what="coloured digits")
    np.testing.assert_array_equal(grey, colour)


def test_no_images_have_no_features(extractor: Extractor, digits: Tensor) -> None:
    assert extractor.features(digits[:0], what="nothing").shape == (0, 1280)


def test_the_packaged_weights_have_their_digest(extractor: Extractor) -> None:
    assert extractor.metric == "fd_efficientnet_lite0"
    assert extractor.identity.weights == weights.EFFICIENTNET_SHA256
    assert extractor.identity.input_size == 128


def test_loading_an_extractor_leaves_the_global_noise_alone() -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    image_extractor()
    assert torch.equal(before, torch.random.get_rng_state())


def test_other_efficientnet_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "EFFICIENTNET_SHA256", "0" * 64)
    with pytest.raises(EvaluationError, match="SHA-256 is 579344248a93, expected 000000000000"):
        image_extractor()


@pytest.mark.parametrize(
    "setting",
    [
        {"inception_weights": "weights.pth"},
        {"inception_resize": "clean"},
        {"dinov2_weights": "weights.pth"},
        {"backbone": {"weights": "weights.pth"}},
    ],
)
def test_settings_of_another_extractor_warn(setting: dict[str, Any]) -> None:
    (name,) = setting
    with pytest.warns(UserWarning, match=f"{name} is ignored: the extractor is efficientnet"):
        image_extractor(**setting)


# Inception: the real weights cannot be shipped, so a file of random ones takes their place.


@pytest.fixture
def expected_digest(random_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(random_weights.read_bytes()).hexdigest()
    monkeypatch.setattr(weights, "INCEPTION_SHA256", digest)


def inception(path: Path | None = None, **settings: Any) -> Extractor:
    where = None if path is None else str(path)
    return image_extractor(extractor="inception-v3", inception_weights=where, **settings)


def test_values_of_other_weights_bear_their_digest_and_are_no_fid(random_weights: Path) -> None:
    digest = hashlib.sha256(random_weights.read_bytes()).hexdigest()
    extractor = inception(random_weights)
    assert extractor.metric == f"fd_inception_v3_{digest[:8]}"
    assert extractor.identity.weights == digest
    legacy = inception(random_weights, inception_resize="legacy")
    assert legacy.metric == f"fd_inception_v3_{digest[:8]}_legacy"


def test_weights_of_another_layout_are_refused(tmp_path: Path) -> None:
    torch.save({"conv": torch.zeros(3)}, tmp_path / "weights.pth")
    with pytest.raises(EvaluationError, match="not weights of torch-fidelity's Inception v3"):
        inception(tmp_path / "weights.pth")


def test_a_pickle_in_place_of_the_weights_is_never_unpickled(tmp_path: Path) -> None:
    class Poison:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save(Poison(), tmp_path / "weights.pth")
    with pytest.raises(EvaluationError, match="not a file of plain tensors"):
        inception(tmp_path / "weights.pth")
    assert not (tmp_path / "ran").exists()


def test_a_named_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"nowhere\.pth: weights cannot be read"):
        inception(tmp_path / "nowhere.pth")


@pytest.mark.usefixtures("expected_digest")
def test_inception_gives_the_features_of_torch_fidelity(
    random_weights: Path, digits: Tensor
) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    extractor = inception(random_weights)
    features = extractor.features(digits[:2], what="two digits")
    theirs = FeatureExtractorInceptionV3(
        "theirs", ["2048"], feature_extractor_weights_path=str(random_weights)
    )
    with torch.inference_mode():
        expected = theirs(digits[:2].repeat(1, 3, 1, 1))[0].numpy()
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-4 * expected.std())
    assert extractor.metric == "fid"
    assert (extractor.identity.width, extractor.identity.input_size) == (2048, 299)
    assert extractor.identity.precision == "fp32"


@pytest.mark.usefixtures("expected_digest")
def test_the_cache_of_torch_fidelity_is_used(
    random_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / INCEPTION_FILE
    cached.parent.mkdir(parents=True)
    cached.symlink_to(random_weights)
    assert inception().metric == "fid"


@pytest.fixture
def release(
    random_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A local server in place of torch-fidelity's release page; gives the cache folder."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    handler = functools.partial(Quiet, directory=str(random_weights.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        point_download_at(f"http://127.0.0.1:{server.server_port}", tmp_path, monkeypatch)
        yield tmp_path / "hub" / "checkpoints"
        server.shutdown()
        thread.join()


def point_download_at(address: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(cache))
    monkeypatch.setattr(
        "torch_fidelity.feature_extractor_inceptionv3.URL_INCEPTION_V3",
        f"{address}/{INCEPTION_FILE}",
    )


@pytest.mark.usefixtures("expected_digest")
def test_missing_weights_are_downloaded_into_the_cache(release: Path) -> None:
    assert inception().metric == "fid"
    assert [path.name for path in release.iterdir()] == [INCEPTION_FILE]


def test_a_download_of_another_digest_is_not_kept(release: Path) -> None:
    with pytest.raises(EvaluationError, match=r"download of .* was incomplete"):
        inception()
    assert list(release.iterdir()) == []


def test_weights_that_cannot_be_fetched_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        point_download_at(address, tmp_path, monkeypatch)
        with pytest.raises(EvaluationError, match=r"inception-weights FILE.*efficientnet-lite0"):
            inception()


def test_another_input_size_is_refused_for_inception() -> None:
    with pytest.raises(EvaluationError, match="always uses 299"):
        inception(input_size=128)
