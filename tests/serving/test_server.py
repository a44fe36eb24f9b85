"""`serve`: a model folder answers in the foreground until it is told to stop."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from aigc_ops.compute.random import sample_seeds
from aigc_ops.core.errors import CheckpointError, PackagingError
from aigc_ops.interfaces.request import Message, SampleRequest
from aigc_ops.models.gpt import Gpt
from aigc_ops.serving.runtime.process import HOST, free_port
from aigc_ops.serving.runtime.server import require_address, serve
from tests.serving.conftest import copy_of, error_of, in_progress, version_of

PROGRAM = """
import sys
from pathlib import Path
from aigc_ops.core.artifacts import ModelVersion
from aigc_ops.serving.runtime.server import serve
version = ModelVersion.model_validate_json(sys.argv[3])
serve(Path(sys.argv[1]), version=version, port=int(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def client(gpt_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A text model served as the command line serves it, ended by Ctrl-C."""
    home, port = tmp_path_factory.mktemp("home"), free_port()
    version = version_of(gpt_folder, number=2).model_dump_json()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(gpt_folder), str(port), version],
        env={"AIGC_OPS_HOME": str(home), "OMP_NUM_THREADS": "1"},
        cwd=home,
    )
    try:
        with httpx.Client(base_url=f"http://{HOST}:{port}", timeout=60) as client:
            wait_ready(client, process)
            yield client
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.terminate()
        process.wait(30)
    with socket.socket() as probe:
        assert probe.connect_ex((HOST, port)) != 0


def wait_ready(client: httpx.Client, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(1200):
        assert process.poll() is None
        try:
            if client.get("/readyz", timeout=1).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise TimeoutError("the service did not become ready in 2 minutes")


def test_one_text_is_answered_as_plain_text(client: httpx.Client, gpt: Gpt) -> None:
    answer = client.post("/generate", json={"seed": 11, "prompt": "two and two?"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.content.decode() == gpt.sample([SampleRequest(11, {"prompt": "two and two?"})])[0]
    assert answer.headers["x-aigc-model"] == "dialogue-gpt"
    assert answer.headers["x-aigc-version"] == "2"
    assert "x-aigc-label" not in answer.headers


def test_a_streamed_text_is_the_same_text_with_the_same_headers(
    client: httpx.Client, gpt: Gpt
) -> None:
    call = {"seed": 11, "prompt": "two and two?", "stream": True}
    with client.stream("POST", "/generate", json=call) as answer:
        pieces = list(answer.iter_text())
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-aigc-seed"] == "11"
    assert "".join(pieces) == gpt.sample([SampleRequest(11, {"prompt": "two and two?"})])[0]


def test_a_client_that_goes_away_leaves_the_service_to_others(client: httpx.Client) -> None:
    for seed in range(5):
        call = {"seed": seed, "prompt": "two?", "stream": True}
        with client.stream("POST", "/generate", json=call) as answer:
            assert answer.status_code == 200
    assert client.post("/generate", json={"prompt": "two?"}).status_code == 200


def test_a_conversation_is_answered(client: httpx.Client, gpt: Gpt) -> None:
    turns = [("user", "one?"), ("assistant", "1"), ("user", "two?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    answer = client.post("/generate", json={"seed": 3, "messages": messages, "stop": ["\n"]})
    history = (Message("user", "one?"), Message("assistant", "1"))
    asked = SampleRequest(3, {"prompt": "two?", "history": history, "stop": ("\n",)})
    assert answer.content.decode() == gpt.sample([asked])[0]


def test_a_long_conversation_costs_about_as_much_as_what_of_it_is_seen(
    client: httpx.Client,
) -> None:
    messages = [{"role": ("user", "assistant")[n % 2], "content": "y"} for n in range(999)]
    for call in ({"messages": messages[-99:]}, {"messages": messages}):
        started = time.monotonic()
        assert client.post("/generate", json={"num": 64, **call}).status_code == 200
        assert time.monotonic() - started < 10


def test_what_cannot_be_served_is_refused_before_it_waits(client: httpx.Client) -> None:
    long = {"num": 64, "controls": {"max_new_tokens": 200}}
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(client.post, "/generate", json=long) for _ in range(8)]
        while (waiting := in_progress(client)) + sum(call.done() for call in calls) < len(calls):
            pass
        assert waiting > 4
        assert client.post("/generate", json={"controls": {"slant": 1}}).status_code == 422
        assert not all(call.done() for call in calls)
        assert [call.result().status_code for call in calls] == [200] * len(calls)


def test_several_texts_come_as_json_with_their_seeds(client: httpx.Client, gpt: Gpt) -> None:
    texts = client.post("/generate", json={"num": 3, "seed": 8, "prompt": "你好"}).json()["texts"]
    assert [text["seed"] for text in texts] == sample_seeds(8, 3)
    asked = [SampleRequest(seed, {"prompt": "你好"}) for seed in sample_seeds(8, 3)]
    assert [text["text"] for text in texts] == gpt.sample(asked)


@pytest.mark.parametrize(
    ("call", "names"),
    [
        ({"label": 1}, "label"),
        ({"prompt": "a" * 5000}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "end with the user's"),
        ({"messages": [{"role": "user", "content": "x"}], "prompt": "y"}, "not both"),
        ({"messages": [{"role": "user", "content": "x"}] * 2}, "add the assistant's answer"),
        ({"stop": [""]}, "stop"),
        ({"stream": True, "num": 2}, "only one text can be streamed"),
        ({"controls": {"temperature": 11}}, "temperature is 11; give 0 to 10"),
    ],
)
def test_what_a_text_model_cannot_serve_is_refused(
    client: httpx.Client, call: dict[str, object], names: str
) -> None:
    answer = client.post("/generate", json=call)
    assert answer.status_code == 422
    assert names in error_of(answer.content)


@pytest.mark.parametrize("prompt", ["", "\x00\x07\x1b[2J", "\u202egnp.exe", "🙂" * 10])
def test_any_short_text_is_a_prompt(client: httpx.Client, prompt: str) -> None:
    assert client.post("/generate", json={"prompt": prompt}).status_code == 200


def test_a_port_in_use_is_named(gan_folder: Path) -> None:
    with socket.socket() as owner:
        owner.bind((HOST, 0))
        owner.listen()
        port = owner.getsockname()[1]
        with pytest.raises(PackagingError, match=rf"port {port} .* in use; .*--port"):
            serve(gan_folder, port=port)


def test_localhost_is_an_address_like_any_other() -> None:
    assert require_address("localhost", free_port()) == HOST


@pytest.mark.parametrize(("host", "port"), [("localhost:80", 3000), (HOST, 0), (HOST, 70000)])
def test_an_address_that_cannot_be_is_refused(gan_folder: Path, host: str, port: int) -> None:
    with pytest.raises(PackagingError, match="; give"):
        serve(gan_folder, host=host, port=port)


def test_a_damaged_model_is_not_served(gan_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(gan_folder, tmp_path / "model")
    (folder / "model.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"model\.json is damaged"):
        serve(folder, port=free_port())
