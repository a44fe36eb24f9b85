"""Conversations in the terminal, as a person types them."""

import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aigc_ops.__main__ import main
from aigc_ops.cli.chat import chat
from aigc_ops.core.atomic_dirs import PROVENANCE, write_folder
from aigc_ops.core.errors import ModelError
from aigc_ops.interfaces.request import Message, SampleRequest
from aigc_ops.models.gpt import Gpt
from aigc_ops.storage.checkpoints import write_model
from tests.conftest import start_child
from tests.models.dialogue import small_model
from tests.sampling.test_sampler import small_gan


@pytest.fixture
def model() -> Gpt:
    return small_model(tokenizer="bytes", context_length=256, temperature=1.0, max_new_tokens=12)


def said(model: Gpt, *lines: str, **settings: object) -> tuple[list[Message], str]:
    output = io.StringIO()
    return chat(model, iter(lines), output, seed=5, **settings), output.getvalue()


def test_each_answer_follows_from_all_before_it(model: Gpt) -> None:
    messages, output = said(model, "Hi", "Who?")
    first = model.sample([SampleRequest(5, {"prompt": "Hi"})])[0]
    history = (Message("user", "Hi"), Message("assistant", first))
    second = model.sample([SampleRequest(6, {"prompt": "Who?", "history": history})])[0]
    assert messages == [*history, Message("user", "Who?"), Message("assistant", second)]
    assert output == f"{first}\n{second}\n"


def test_reset_and_seed_begin_again(model: Gpt) -> None:
    once, output = said(model, "Hi")
    again, twice = said(model, "Hi", "/reset", "/seed 5", "Hi", "/quit", "not read")
    assert again == once
    assert twice == output * 2


def test_the_system_message_stays_when_the_conversation_is_forgotten(model: Gpt) -> None:
    messages, _ = said(model, "/reset", "Hi", system="Be kind.")
    assert messages[0] == Message("system", "Be kind.")
    assert len(messages) == 3


def test_a_line_too_long_is_refused_and_the_conversation_goes_on(
    model: Gpt, capsys: pytest.CaptureFixture[str]
) -> None:
    messages, _ = said(model, "x" * 5000, "Hi")
    assert "give a shorter prompt" in capsys.readouterr().err
    assert [message.role for message in messages] == ["user", "assistant"]


def test_an_interrupted_answer_is_forgotten(model: Gpt, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: SampleRequest) -> Iterator[str]:
        yield "Hel"
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "stream", interrupted)
    messages, output = said(model, "Hi")
    assert messages == []
    assert output == "Hel"


def test_a_line_may_begin_with_a_slash_and_an_unknown_command_is_told_how(
    model: Gpt, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(model, "/etc/hosts") == ([], "")
    assert "begin it with //" in capsys.readouterr().err
    messages, _ = said(model, "//etc//hosts")
    assert messages[0] == Message("user", "/etc//hosts")


def test_models_of_images_do_not_talk() -> None:
    with pytest.raises(ModelError, match="aigc-ops sample"):
        chat(small_gan(), iter([]), io.StringIO(), seed=0)


def piped(folder: Path, *arguments: str) -> None:
    """The command, its three streams being files of the folder."""
    with (
        (folder / "stdin").open("rb") as given,
        (folder / "stdout").open("wb") as answered,
        (folder / "stderr").open("wb") as told,
    ):
        for number, file in enumerate((given, answered, told)):
            os.dup2(file.fileno(), number)
    sys.stdin = io.TextIOWrapper(os.fdopen(0, "rb", closefd=False))
    sys.exit(main(list(arguments)))


@pytest.mark.slow
def test_lines_piped_into_the_command_are_answered(model: Gpt, tmp_path: Path) -> None:
    provenance = {"step": 1, "dataset_digest": "0" * 64, "run_id": None, "rate": None}

    def fill(folder: Path) -> None:
        write_model(model, folder)
        (folder / PROVENANCE).write_text(json.dumps(provenance))

    write_folder(tmp_path / "model", fill)
    (tmp_path / "stdin").write_bytes(b"Hi\r\nhi \xff\n")
    child = start_child(piped, tmp_path, "chat", str(tmp_path / "model"), "--seed", "5", "--json")
    child.join()
    told = (tmp_path / "stderr").read_text()
    assert child.exitcode == 0, told
    assert "line 2: not UTF-8 (invalid start byte at byte 3); skipped" in told
    found = json.loads((tmp_path / "stdout").read_text())["messages"]
    expected, _ = said(model, "Hi")
    assert found == [{"role": m.role, "content": m.text} for m in expected]
