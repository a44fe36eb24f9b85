"""A real Bento of a real model: built, booted, asked and stopped."""

import base64
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from aigc_ops.compute.random import sample_seeds
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.models.gan import Gan
from aigc_ops.serving.api.native import Call
from aigc_ops.serving.bento import store
from aigc_ops.serving.bento.packaging import package
from aigc_ops.serving.bento.requirements import REQUIREMENTS
from aigc_ops.serving.bento.store import find_bento, model_folder
from aigc_ops.serving.config import PackagingConfig
from aigc_ops.serving.runtime.process import HOST, ServerProcess, running
from tests.serving.conftest import CANARY, Packaged, error_of, in_progress


@pytest.fixture(scope="module")
def server(
    packaged_once: Packaged, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """The confirmed Bento as anyone would serve it, from BentoML's own store."""
    folder = tmp_path_factory.mktemp("served")
    environment = {"BENTOML_HOME": str(packaged_once.home / "bentoml"), "OMP_NUM_THREADS": "1"}
    log = folder / "log"
    with running(
        packaged_once.bento.uri, environment=environment, folder=folder, log=log
    ) as process:
        process.wait_ready(120)
        yield process


def pixels(png: bytes) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
        return np.array(picture)


def drawn(gan: Gan, *, seed: int, label: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    with torch.inference_mode():
        return gan.sample([SampleRequest(seed, {"label": label})])[0, 0].numpy()


def test_a_bento_counts_once_its_golden_samples_were_compared(packaged: Packaged) -> None:
    bento = packaged.bento
    assert bento.tag.startswith("mnist-gan:v3-")
    assert (bento.num_golden, bento.max_levels_apart) == (4, 1)  # one golden pixel was moved
    assert bento.model == packaged.version
    name, _, tag_version = bento.tag.partition(":")
    assert Path(bento.uri) == packaged.home / "bentoml" / "bentos" / name / tag_version


def test_a_bento_says_where_it_comes_from(packaged: Packaged) -> None:
    record = yaml.safe_load((Path(packaged.bento.uri) / "bento.yaml").read_text())
    labels = record["labels"]
    assert labels["name"] == "mnist-gan"
    assert labels["version"] == "3"
    assert labels["manifest_digest"] == packaged.version.manifest_digest
    assert record["models"][0]["tag"] == f"mnist-gan:v3-{packaged.version.manifest_digest[:8]}"


def test_bentoml_lists_the_bento(packaged: Packaged) -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "bentoml", "list", "-o", "json"],
        env={"BENTOML_HOME": str(packaged.home / "bentoml")},
        capture_output=True,
        check=True,
    )
    assert [item["tag"] for item in json.loads(listed.stdout)] == [packaged.bento.tag]


def test_the_container_runs_as_a_user_with_the_pinned_packages(packaged: Packaged) -> None:
    bento = Path(packaged.bento.uri)
    dockerfile = (bento / "env" / "docker" / "Dockerfile").read_text().splitlines()
    assert "FROM python:3.11-slim AS base-container" in dockerfile
    assert [line for line in dockerfile if line.startswith("USER")] == ["USER bentoml"]
    assert "ARG AIGC_OPS_MAX_NUM=64" in dockerfile
    pins = (bento / "env" / "python" / "requirements.txt").read_text().split("\n")
    asked = (bento / "src" / REQUIREMENTS).read_text().split("\n")
    assert {pin for pin in pins if "==" in pin} == {pin for pin in asked if "==" in pin}


def test_no_secret_of_the_environment_enters_bento_model_or_logs(packaged: Packaged) -> None:
    files = [path for path in packaged.home.rglob("*") if path.is_file()]
    assert any(path.suffix == ".log" for path in files)
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []


def test_packaging_again_returns_the_confirmed_bento_at_once(packaged: Packaged) -> None:
    built = Path(packaged.bento.uri, "bento.yaml").stat().st_mtime_ns
    started = time.monotonic()
    again = package(packaged.version, packaged.folder, config=PackagingConfig())
    assert time.monotonic() - started < 1
    assert again == packaged.bento
    assert Path(again.uri, "bento.yaml").stat().st_mtime_ns == built


def test_a_confirmed_bento_is_found_without_torch_or_bentoml(packaged: Packaged) -> None:
    program = """
import sys
from aigc_ops.core.artifacts import ModelVersion
from aigc_ops.serving.bento.store import find_bento
print(find_bento(ModelVersion.model_validate_json(sys.argv[1])).tag)
assert not {"torch", "bentoml"} & sys.modules.keys()
"""
    found = subprocess.run(
        [sys.executable, "-c", program, packaged.version.model_dump_json()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == packaged.bento.tag


@pytest.mark.parametrize(
    "name",
    ["confirmed.json", "bento.yaml", "src/aigc_ops/sampling/sampler.py", "model", "other version"],
)
def test_a_bento_that_is_not_whole_is_not_found(packaged: Packaged, name: str) -> None:
    version = packaged.version
    assert find_bento(version) == packaged.bento
    if name == "other version":
        assert find_bento(version.model_copy(update={"version": 4})) is None
        return
    store = packaged.home / "bentoml"
    path = Path(packaged.bento.uri, name)
    if name == "model":
        path = model_folder(store, version) / "model" / "model.safetensors"
    before = path.read_bytes()
    try:
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        assert find_bento(version) is None
        path.unlink()
        assert find_bento(version) is None
    finally:
        path.write_bytes(before)
    assert find_bento(version) == packaged.bento


def test_after_a_change_of_code_the_bento_of_the_earlier_code_still_stands(
    packaged: Packaged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "code_digest", lambda root: "0" * 64)
    assert find_bento(packaged.version) is None
    assert store.find_newest_bento(packaged.version) == packaged.bento
    other = packaged.version.model_copy(update={"version": 4})
    assert store.find_newest_bento(other) is None


def test_one_image_is_a_png_with_its_origin_in_the_headers(
    client: httpx.Client, gan: Gan, packaged: Packaged
) -> None:
    answer = client.post("/generate", json={"seed": 41, "label": 6})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert np.array_equal(pixels(answer.content), drawn(gan, seed=41, label=6))
    assert answer.headers["x-aigc-model"] == "mnist-gan"
    assert answer.headers["x-aigc-version"] == "3"
    assert answer.headers["x-aigc-seed"] == "41"
    assert answer.headers["x-aigc-label"] == "6"
    assert answer.headers["x-aigc-manifest"] == packaged.version.manifest_digest
    with Image.open(io.BytesIO(answer.content)) as picture:
        note = json.loads(picture.info["aigc_ops"])
    assert note == {
        "model": "models:/mnist-gan/3",
        "manifest_digest": packaged.version.manifest_digest,
        "seed": 41,
        "label": 6,
    }


def test_several_images_go_round_the_classes_each_with_its_own_seed(
    client: httpx.Client, gan: Gan
) -> None:
    images = client.post("/generate", json={"num": 12, "seed": 5}).json()["images"]
    assert [image["label"] for image in images] == [*range(10), 0, 1]
    assert [image["seed"] for image in images] == sample_seeds(5, 12)
    for image in images:
        alone = drawn(gan, seed=image["seed"], label=image["label"])
        assert np.array_equal(pixels(base64.b64decode(image["image"])), alone)
        with Image.open(io.BytesIO(base64.b64decode(image["image"]))) as picture:
            assert json.loads(picture.info["aigc_ops"])["seed"] == image["seed"]


def test_controls_are_set_and_told(client: httpx.Client, gan: Gan) -> None:
    call = {"seed": 5, "label": 3, "controls": {"truncation": 0.25}}
    answer = client.post("/generate", json=call)
    with torch.inference_mode():
        [expected] = gan.sample([SampleRequest(5, {"label": 3}, {"truncation": 0.25})])
    assert np.array_equal(pixels(answer.content), expected[0].numpy())
    assert not np.array_equal(pixels(answer.content), drawn(gan, seed=5, label=3))
    assert json.loads(answer.headers["x-aigc-controls"]) == {"truncation": 0.25}
    assert "x-aigc-controls" not in client.post("/generate", json={"seed": 5}).headers


def test_a_seed_left_out_is_drawn_and_told(client: httpx.Client) -> None:
    first, second = client.post("/generate"), client.post("/generate", json={})
    assert first.headers["x-aigc-seed"] != second.headers["x-aigc-seed"]
    again = client.post("/generate", json={"seed": int(first.headers["x-aigc-seed"])})
    assert again.content == first.content


@pytest.mark.parametrize(
    ("body", "status", "names"),
    [
        (b"", 200, ""),
        (b"not json", 400, "JSON"),
        (b'{"num": 1', 400, "JSON"),
        (b'{"seed": NaN}', 422, "seed"),
        (b'{"prompt": "\\ud800"}', 400, "JSON"),
        (b"\xff\xfe{}", 400, "JSON"),
        (b"[" * 500_000, 400, "JSON"),
        (b"[]", 422, "object"),
        (b"3", 422, "object"),
        (b'{"num": 0}', 422, "num"),
        (b'{"num": 65}', 422, "num"),
        (b'{"num": "3"}', 422, "num"),
        (b'{"num": 1.0}', 422, "num"),
        (b'{"num": true}', 422, "num"),
        (b'{"num": null}', 422, "num"),
        (b'{"num": ' + b"9" * 4000 + b"}", 422, "num"),
        (b'{"seed": -1}', 422, "seed"),
        (b'{"seed": 9007199254740992}', 422, "seed"),
        (b'{"label": 10}', 422, "label"),
        (b'{"label": -1}', 422, "label"),
        (b'{"label": "3"}', 422, "label"),
        (b'{"prompt": "a four"}', 422, "prompt"),
        (b'{"prompt": "' + b"a" * 10_001 + b'"}', 422, "prompt"),
        (b'{"temperature": 1}', 422, "temperature"),
        (b'{"num": 2, "num": 99}', 422, "num"),
        (b'{"controls": {"slant": 1}}', 422, "choose from truncation (0 to 4)"),
        (b'{"controls": {"truncation": 5}}', 422, "truncation is 5; give 0 to 4"),
        (b'{"controls": {"truncation": NaN}}', 422, "truncation is nan"),
        (b'{"controls": {"truncation": ' + b"9" * 4000 + b"}}", 422, "truncation is inf"),
        (b'{"controls": {"truncation": "1"}}', 422, "controls.truncation"),
        (b'{"controls": {"truncation": true}}', 422, "controls.truncation"),
        (b'{"controls": ["truncation"]}', 422, "controls"),
        (b"{" + b" " * 1_000_000 + b"}", 413, "1000000 bytes"),
    ],
    ids=lambda value: ascii(value)[:24],
)
def test_a_bad_value_is_refused_with_its_name(
    client: httpx.Client, body: bytes, status: int, names: str
) -> None:
    answer = client.post("/generate", content=body)
    assert answer.status_code == status, answer.text[:200]
    if status != 200:
        assert names in error_of(answer.content)


def test_a_body_of_unknown_length_is_cut_off(client: httpx.Client) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 100_000

    answer = client.post("/generate", content=pieces())
    assert answer.status_code == 413
    assert "1000000 bytes" in error_of(answer.content)


def test_other_methods_and_paths_are_refused(client: httpx.Client) -> None:
    assert client.get("/generate").status_code == 405
    assert client.delete("/generate").status_code == 405
    assert client.get("/../../etc/passwd").status_code == 404
    assert client.post("/generated", json={}).status_code == 404


def test_one_bad_call_fails_itself_alone(client: httpx.Client, gan: Gan) -> None:
    calls = [{"seed": seed, "label": 3 if seed % 2 else 77} for seed in range(16)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda call: client.post("/generate", json=call), calls))
    for call, answer in zip(calls, answers, strict=True):
        if call["seed"] % 2:
            assert np.array_equal(pixels(answer.content), drawn(gan, seed=call["seed"], label=3))
        else:
            assert answer.status_code == 422


def test_health_is_told_while_the_model_draws(client: httpx.Client) -> None:
    done = threading.Event()

    def draw() -> None:
        while not done.is_set():
            assert client.post("/generate", json={"num": 64}).status_code == 200

    with ThreadPoolExecutor(4) as pool:
        drawing = [pool.submit(draw) for _ in range(4)]
        try:
            for path in ("/livez", "/readyz") * 5:
                assert client.get(path, timeout=2).status_code == 200
        finally:
            done.set()
        for each in drawing:
            each.result()


def test_what_is_more_than_the_queue_holds_is_turned_away(client: httpx.Client) -> None:
    with ThreadPoolExecutor(60) as pool:
        calls = [pool.submit(client.post, "/generate", json={"num": 64}) for _ in range(60)]
        statuses = [call.result().status_code for call in calls]
    assert set(statuses) == {200, 429}


def test_metrics_count_the_calls(client: httpx.Client) -> None:
    client.post("/generate", json={"seed": 1})
    metrics = client.get("/metrics").text
    counted = [line for line in metrics.splitlines() if 'endpoint="/generate"' in line]
    assert any('http_response_code="200"' in line for line in counted)
    assert any("mnist-gan" in line for line in counted)


def test_the_service_describes_itself_from_its_own_files(client: httpx.Client) -> None:
    described = client.get("/docs.json").json()
    call = described["paths"]["/generate"]["post"]
    schema = call["requestBody"]["content"]["application/json"]["schema"]
    assert set(schema["properties"]) == {*Call.model_fields, "label"}
    controls = schema["properties"]["controls"]
    assert not controls["additionalProperties"]
    assert controls["properties"].keys() == {"truncation"}
    truncation = controls["properties"]["truncation"]
    assert (truncation["type"], truncation["minimum"], truncation["maximum"]) == ("number", 0, 4)
    assert schema["properties"]["num"]["maximum"] == 64
    assert described["info"] == {"title": "mnist-gan", "version": "3"}
    page = client.get("/").text
    assert "//" not in page
    for part in page.split('"'):
        if part.startswith("./"):
            assert client.get(part[1:]).status_code == 200


def test_sigterm_lets_the_calls_in_flight_finish(server: ServerProcess) -> None:
    """Last in this file: the server that the tests above asked is gone afterwards."""
    with httpx.Client(base_url=f"http://{HOST}:{server.port}", timeout=60) as client:
        with ThreadPoolExecutor(24) as pool:
            calls = [pool.submit(client.post, "/generate", json={"num": 64}) for _ in range(24)]
            while (waiting := in_progress(client)) + sum(map(Future.done, calls)) < len(calls):
                pass
            assert waiting > 0
            server.stop()
            assert [call.result().status_code for call in calls] == [200] * len(calls)
        with pytest.raises(httpx.TransportError):
            client.get("/livez")
