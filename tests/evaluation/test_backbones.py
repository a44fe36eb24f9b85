"""Extractors from files of one's own: what is trusted, what is refused, what they compute."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet18
from torchvision.models.feature_extraction import create_feature_extractor

from aigc_ops.cli import pipeline_commands
from aigc_ops.cli.parser import parser
from aigc_ops.core.errors import EvaluationError
from aigc_ops.modalities.image.config import ExtractorName
from aigc_ops.modalities.image.extractors.base import Extractor
from tests.evaluation.conftest import image_extractor

SIZE = 32


class Projection(nn.Module):
    """Means of 8x8 patches, (B, 48)."""

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.avg_pool2d(inputs, 8).flatten(1)


def backbone(weights: Path | None, **settings: Any) -> Extractor:
    described = {"weights": weights and str(weights), "input_size": SIZE, **settings}
    return image_extractor(extractor="backbone", backbone=described)


def program(path: Path, *, any_batch: bool = True, network: nn.Module | None = None) -> Path:
    dynamic = ({0: torch.export.Dim("batch")},) if any_batch else None
    example = (torch.zeros(2, 3, SIZE, SIZE),)
    made = torch.export.export(network or Projection(), example, dynamic_shapes=dynamic)
    torch.export.save(made, path)
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A ResNet-18 of 10 classes with random weights, and its file."""
    torch.manual_seed(0)
    network = resnet18(num_classes=10).eval()
    path = tmp_path_factory.mktemp("residual") / "weights.safetensors"
    save_file(network.state_dict(), path)
    return network, path


def images(num: int = 4) -> Tensor:
    return torch.randint(
        0, 256, (num, 3, 20, 20), generator=torch.Generator().manual_seed(0)
    ).byte()


def prepared(pixels: Tensor) -> Tensor:
    """As torchvision's own classifiers see images."""
    resized = functional.interpolate(
        pixels.float() / 255, size=(SIZE, SIZE), mode="bilinear", antialias=True
    )
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (resized - mean.view(3, 1, 1)) / std.view(3, 1, 1)


def test_a_state_dict_gives_what_the_classifier_sees(
    residual: tuple[nn.Module, Path],
) -> None:
    network, path = residual
    extractor = backbone(path, architecture="resnet18")
    own = create_feature_extractor(network, ["flatten"])
    with torch.inference_mode():
        expected = own(prepared(images()))["flatten"].numpy()
    np.testing.assert_allclose(
        extractor.features(images(), what="images"), expected, atol=1e-4 * expected.std()
    )
    assert extractor.metric == f"fd_resnet18_{digest(path)[:8]}"
    identity = extractor.identity
    assert (identity.name, identity.width, identity.input_size) == ("resnet18", 512, SIZE)
    assert (identity.weights, identity.precision) == (digest(path), "fp32")
    assert identity.resize == "bilinear-antialiased"
    assert "0.485" in identity.normalisation


def test_a_trusted_program_gives_its_features(tmp_path: Path) -> None:
    path = program(tmp_path / "program.pt2")
    extractor = backbone(path, sha256=digest(path).upper())
    expected = Projection()(prepared(images(5))).numpy()
    np.testing.assert_allclose(extractor.features(images(5), what="images"), expected, atol=1e-4)
    assert extractor.metric == f"fd_pt2_{digest(path)[:8]}"


def test_a_program_is_opened_only_when_its_digest_is_stated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr("torch.export.load", opened.append)
    path = program(tmp_path / "program.pt2")
    with pytest.raises(EvaluationError, match=f"can run code .*backbone.sha256: {digest(path)}"):
        backbone(path)
    with pytest.raises(EvaluationError, match=r"backbone\.sha256 is 0000"):
        backbone(path, sha256="0" * 64)
    assert not opened


def test_a_pickle_in_place_of_a_state_dict_is_never_unpickled(tmp_path: Path) -> None:
    class Poison:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save(Poison(), tmp_path / "weights.pth")
    with pytest.raises(EvaluationError, match="not a file of plain tensors"):
        backbone(tmp_path / "weights.pth", architecture="resnet18")
    assert not (tmp_path / "ran").exists()


def junk(path: Path) -> Path:
    path.write_bytes(b"no program")
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p, _: (None, {}), "backbone.weights is not set"),
        (lambda p, _: (p / "absent.safetensors", {}), "absent.safetensors: weights cannot be read"),
        (lambda p, w: (w, {}), "with evaluation.image.backbone.architecture"),
        (lambda p, w: (w, {"architecture": "resnet81"}), "did you mean resnet18"),
        (lambda p, w: (w, {"architecture": "resnet34"}), "not weights of resnet34 .*Missing key"),
        (lambda p, w: (w, {"architecture": "squeezenet1_1"}), "has no linear layer"),
        (lambda p, _: (program(p / "s.pt2", any_batch=False), {}), "export it for any B"),
        (
            lambda p, _: (program(p / "f.pt2", network=nn.Identity()), {}),
            r"of shape \(B, D\)",
        ),
        (lambda p, _: (junk(p / "j.pt2"), {}), "not a torch.export program that this torch"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_way_out(
    tmp_path: Path, residual: tuple[nn.Module, Path], make: Callable[..., Any], message: str
) -> None:
    path, settings = make(tmp_path, residual[1])
    if path is not None and path.suffix == ".pt2":
        settings = {"sha256": digest(path)}
    with pytest.raises(EvaluationError, match=message):
        backbone(path, **settings)


def test_another_input_size_is_that_of_the_backbone(residual: tuple[nn.Module, Path]) -> None:
    described = {"weights": str(residual[1])}
    with pytest.raises(EvaluationError, match="input_size applies only to efficientnet-lite0"):
        image_extractor(extractor="backbone", input_size=64, backbone=described)


def test_sets_are_scored_by_a_backbone_from_the_command_line(
    tmp_path: Path, residual: tuple[nn.Module, Path]
) -> None:
    for name, seed in (("real", 0), ("fake", 1)):
        pixels = np.random.default_rng(seed).integers(0, 255, (12, 16, 16, 3), dtype=np.uint8)
        np.save(tmp_path / f"{name}.npy", pixels)
    described = tmp_path / "backbone.yaml"
    described.write_text(f"weights: {residual[1]}\narchitecture: resnet18\ninput_size: 32\n")
    sets = [str(tmp_path / f"{name}.npy") for name in ("real", "fake")]
    words = ["score", *sets, "--extractor", "backbone", "--backbone", str(described)]
    with pytest.warns(UserWarning, match="fewer than the extractor's 512 features"):
        answer, _ = pipeline_commands.score_command(parser().parse_args(words), [])
    name, *_ = answer
    assert name == f"fd_resnet18_{digest(residual[1])[:8]}"
    assert answer[name]["contract"]["weights"] == digest(residual[1])


def test_the_command_line_offers_every_extractor() -> None:
    choices = parser()._subparsers._group_actions[0].choices["score"]._option_string_actions
    assert set(choices["--extractor"].choices) == set(get_args(ExtractorName))
