"""What every test shares: a home of its own, and small data."""

import functools
import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import torch

from aigc_ops.compute.random import Noise
from aigc_ops.core.artifacts import DatasetRef, ImageShape
from aigc_ops.core.state_dir import PRIVATE_FOLDERS, TELEMETRY_OFF
from aigc_ops.modalities.image.model import ImageData, Images

os.environ.update(TELEMETRY_OFF)
# Two workers of two threads each wait for one another on two cores, many times over.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
gc.disable()  # while modules are imported and tests collected; see pytest_collection_finish
# A shell starts what it runs behind it with Ctrl-C ignored, which children would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
ROOT = Path(__file__).parent.parent

# Real processes, forked from one that has imported all of this and has not yet trained: a fork of
# one that has cannot differentiate.
CHILDREN = get_context("forkserver")
CHILDREN.set_forkserver_preload(
    [
        "aigc_ops.pipeline.chain",
        "mlflow.store.model_registry.sqlalchemy_store",
        "mlflow.store.tracking.sqlalchemy_store",
        "tests.registry.conftest",
        "tests.training.runs",
        "transformers.models.llama.modeling_llama",
    ]
)

LONGEST = ("test_chain.py", "test_readme.py", "test_pages.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take minutes come first, so that no worker ends long after the other."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_collection_finish() -> None:
    """Keep the 700,000 objects of imported modules out of every later garbage collection."""
    gc.freeze()
    gc.enable()


def start_child(target: Callable[..., None], *arguments: object) -> BaseProcess:
    """A real process that calls a function in this one's environment, without its imports' time."""
    child = CHILDREN.Process(target=_in_environment, args=(dict(os.environ), target, arguments))
    child.start()
    return child


def _in_environment(
    environment: dict[str, str], target: Callable[..., None], arguments: tuple[object, ...]
) -> None:
    os.environ.clear()  # it was that of the first child's time
    os.environ.update(environment)
    target(*arguments)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home for this test alone; nothing of the machine's own state is read.

    Variables that the code under test sets in this process end with the test.
    """
    before = dict(os.environ)
    folder = tmp_path / "home"
    monkeypatch.setenv("AIGC_OPS_HOME", str(folder))
    servers = ("PREFECT_HOME", "BENTOML_HOME", "MLFLOW_TRACKING_URI", "PREFECT_API_URL")
    for variable in (*servers, *PRIVATE_FOLDERS, "PYTHONSAFEPATH", "AIGC_OPS_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
    yield folder
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def folded_once() -> Iterator[None]:
    """EfficientNet-Lite0 is read and folded once for a file's tests, which only look with it."""
    from aigc_ops.modalities.image.extractors import efficientnet

    with pytest.MonkeyPatch.context() as patch:
        folded = functools.cache(efficientnet._folded_efficientnet)
        patch.setattr(efficientnet, "_folded_efficientnet", folded)
        yield


def answers(url: str) -> bool:
    """Whether a server answers there with success."""
    try:
        with urlopen(url, timeout=5):
            return True
    except (URLError, OSError):
        return False


def striped_digits(num: int, *, size: int = 8, num_classes: int = 2) -> ImageData:
    """Grey images of noise around a class's own stripe, (num, 1, size, size)."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 60, (num, 1, size, size), generator=generator)
    labels = torch.arange(num) % num_classes
    for index, label in enumerate(labels.tolist()):
        images[index, :, :, label * 2 : label * 2 + 2] += 190
    names = tuple(str(label) for label in range(num_classes))
    shape = ImageShape(channels=1, height=size, width=size, class_names=names)
    return ImageData(images.to(torch.uint8), labels, shape)


def noise_for(batch: dict[str, torch.Tensor], seed: int = 0) -> Noise:
    """The noise of a step over this batch."""
    return Noise(seed, batch_size=len(next(iter(batch.values()))))


def ref_of(data: Images) -> DatasetRef:
    """A dataset noun for data that lies nowhere."""
    return DatasetRef(
        uri="memory",
        modality="image",
        content_digest="0" * 64,
        num_train=len(data),
        num_heldout=0,
        image_shape=data.shape,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(check: Callable[[], Any], *, seconds: float = 120) -> Any:
    """The first true result of a check."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := check():
            return found
        time.sleep(0.3)
    raise AssertionError(f"not within {seconds} s: {check}")


@contextmanager
def process(log: Path, *arguments: str, **variables: str) -> Iterator[None]:
    """A server of the environment's own, ended with the block."""
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, **variables},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield
        finally:
            server.terminate()
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@contextmanager
def listening(
    command: Sequence[str | Path], *, cwd: Path, log: Path, **environment: str
) -> Iterator[str]:
    """A service at a free port, once it is ready; ended with the block. Yields its address."""
    port = free_port()
    with log.open("w") as output:
        server = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=cwd,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        eventually(lambda: answers(f"http://127.0.0.1:{port}/readyz") or server.poll() is not None)
        assert server.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)
