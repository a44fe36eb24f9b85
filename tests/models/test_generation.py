"""How texts are drawn: samplers, stop strings, streams, conversations."""

import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
import torch

from aigc_ops.core.errors import ModelError
from aigc_ops.interfaces.request import Message, Role, SampleRequest
from aigc_ops.modalities.text.model import TextData
from aigc_ops.models.gpt import Gpt
from aigc_ops.models.language.decoding import Decoding, Detokenizer, TokenSampler
from aigc_ops.models.language.packing import IGNORED
from aigc_ops.models.language.tokenizer import SPECIAL_TOKENS, Vocabulary
from aigc_ops.sampling.sampler import generate, requests
from tests.models.dialogue import DIALOGUE, requests_of_unlike_lengths, small_model
from tests.models.test_exchange import CHATML, with_template

TURNS = (Message("user", "Hi"), Message("assistant", "Hello there 😀"))


def drawn_by(logits: torch.Tensor, num: int, **settings: float) -> torch.Tensor:
    """So many draws (num,) from logits (V,)."""
    plain = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
    decoding = Decoding(**{**plain, **settings}, max_new_tokens=1)
    generators = [torch.Generator().manual_seed(seed) for seed in range(num)]
    token_sampler = TokenSampler([decoding] * num, [[0]] * num, generators, num_tokens=len(logits))
    return token_sampler.sample(logits.expand(num, -1), 0)


@pytest.mark.parametrize(
    ("settings", "kept", "temperature"),
    [
        ({"temperature": 2.0, "top_k": 3}, [1, 3, 4], 2.0),
        ({"top_p": 0.8}, [1, 3], 1.0),  # 0.60 and 0.22: the first alone has too little
        ({"top_p": 0.001}, [1], 1.0),
        ({"top_k": 3, "top_p": 0.95}, [1, 3, 4], 1.0),
        ({}, [0, 1, 2, 3, 4], 1.0),
    ],
)
def test_drawn_tokens_have_the_frequencies_of_what_was_kept(
    settings: dict[str, float], kept: list[int], temperature: float
) -> None:
    logits = torch.tensor([0.5, 3.0, -1.0, 2.0, 1.0])
    expected = (logits[kept] / temperature).softmax(-1)
    shares = drawn_by(logits, 20_000, **settings).bincount(minlength=5) / 20_000
    assert shares[kept] == pytest.approx(expected, abs=0.014)  # 4 standard errors
    assert shares.sum() == pytest.approx(shares[kept].sum())


@pytest.mark.parametrize(
    ("logits", "weaker"), [([3.0, 2.0], [1.5, 2.0]), ([-1.0, -2.0], [-2.0, -2.0])]
)
def test_the_penalty_weakens_what_was_said_before_whatever_its_sign(
    logits: list[float], weaker: list[float]
) -> None:
    drawn = drawn_by(torch.tensor(logits), 20_000, repetition_penalty=2.0)  # 0 was said
    shares = drawn.bincount(minlength=2) / 20_000
    assert shares == pytest.approx(torch.tensor(weaker).softmax(-1), abs=0.014)


@pytest.mark.parametrize("temperature", [1e-3, 1e-45, 1e-320])
def test_the_least_temperatures_draw_what_is_likeliest(temperature: float) -> None:
    logits = torch.tensor([0.5, 3.0, -1.0, 2.0])
    assert drawn_by(logits, 50, temperature=temperature).tolist() == [1] * 50


def test_a_strong_penalty_ends_repetition() -> None:
    model = small_model(tokenizer="characters", temperature=0, max_new_tokens=30)
    plain, varied = (
        model.sample([SampleRequest(0, {"prompt": "Hi"}, {"repetition_penalty": penalty})])[0]
        for penalty in (1.0, 10.0)
    )
    assert len(set(varied)) > 2 * len(set(plain))


def test_each_sample_keeps_to_its_own_settings_among_others() -> None:
    model = small_model(tokenizer="bytes")
    settings = [{"temperature": 0}, {"top_k": 2}, {"top_p": 0.5, "max_new_tokens": 5}, {}]
    requests = [
        SampleRequest(seed, {"prompt": "Hi"}, controls) for seed, controls in enumerate(settings)
    ]
    assert model.sample(requests) == [model.sample([request])[0] for request in requests]
    assert len(model.sample(requests)[2].encode()) <= 15  # five bytes, were each a broken one


@pytest.mark.parametrize("tokenizer", ["bpe", "bytes", "characters"])
def test_a_stream_adds_up_to_the_sample_in_whole_characters(tokenizer: str) -> None:
    model = small_model(tokenizer=tokenizer, temperature=1.0, top_k=None)
    for request, sample in zip(
        requests_of_unlike_lengths(), model.sample(requests_of_unlike_lengths()), strict=True
    ):
        pieces = list(model.stream(request))
        assert "".join(pieces) == sample
        assert all(pieces)
        assert all(not piece.endswith("\ufffd") for piece in pieces)


@pytest.mark.parametrize("text", ["你好 😀👩‍👧 naïve", "日本語テキスト", "a\nb"])
def test_characters_of_many_tokens_are_told_whole(text: str) -> None:
    vocabulary = Vocabulary.of_bytes(DIALOGUE)
    (ids,) = vocabulary.encode([text])
    detokenizer = Detokenizer(vocabulary, vocabulary.prompt_tokens("?"), max_tokens=len(ids))
    pieces = [detokenizer.append(token) for token in ids]
    assert "".join(pieces) == text
    assert [piece for piece in pieces if piece] == list(text)


@pytest.mark.parametrize(
    ("stop", "expected"), [(["lo w"], "hel"), (["orl", "lo"], "hel"), (["x"], "hello world")]
)
def test_a_text_ends_before_the_first_stop_string(stop: list[str], expected: str) -> None:
    vocabulary = Vocabulary.of_bytes(DIALOGUE)
    (ids,) = vocabulary.encode(["hello world"])
    detokenizer = Detokenizer(
        vocabulary, vocabulary.prompt_tokens("?"), max_tokens=len(ids), stop=stop
    )
    text = ""
    for token in ids:
        text += detokenizer.append(token)
        assert expected.startswith(text)  # nothing that may begin a stop string
    assert text == detokenizer.text == expected
    assert detokenizer.ended


def test_a_closed_stream_draws_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(max_new_tokens=40, temperature=1.0)
    calls = []
    forward = model.network.forward
    monkeypatch.setattr(
        model.network, "forward", lambda *a, **k: calls.append(0) or forward(*a, **k)
    )
    stream = model.stream(SampleRequest(1, {"prompt": "Hi"}))
    next(stream)
    drawn = len(calls)
    stream.close()
    assert len(calls) == drawn < 20


# Conversations


def test_earlier_turns_stand_before_the_prompt_each_ended_as_in_training() -> None:
    vocabulary = Vocabulary.of_bytes(DIALOGUE)
    start, turn, end = vocabulary.start, vocabulary.turn, vocabulary.end
    hi, hello, who = vocabulary.encode(["Hi", "Hello there 😀", "Who?"])
    expected = [start, *hi, *turn, *hello, end, *who, *turn]
    assert vocabulary.prompt_tokens("Who?", TURNS) == expected
    data = TextData(["Me."], ["Who?"], [TURNS])
    (document,) = vocabulary.documents(data)
    assert document.ids == [*expected, *vocabulary.encode(["Me."])[0], end]
    assert document.first == len(expected)
    assert document.new == len([start, *hi, *turn, *hello, end])


def test_what_an_earlier_row_taught_is_no_target_again() -> None:
    data = TextData(["Hello there 😀", "Me."], ["Hi", "Who?"], [(), TURNS])
    model = small_model(data, tokenizer="bytes", context_length=96, train_on_prompts=True)
    targets = model.examples(data)["targets"]
    counted = sum(len(text.encode()) for text in ("Hi", TURNS[1].text, "Who?", "Me."))
    assert int((targets != IGNORED).sum()) == counted + 4  # two turns and two ends


def test_as_many_whole_turns_are_kept_as_the_context_holds() -> None:
    model = small_model(tokenizer="bytes", context_length=64, max_new_tokens=16)
    turns = [Message("user", "u" * 8), Message("assistant", "a" * 8)] * 6
    system = Message("system", "Be brief.")
    request = SampleRequest(0, {"prompt": "Now?", "history": (system, *turns)})
    opening = model._prompt_tokens(request)
    assert len(opening) + 16 <= 64
    assert opening == model.vocabulary.prompt_tokens("Now?", [system, *turns[-4:][2:]])
    assert model.sample([request])


def first_that_fits(model: Gpt, request: SampleRequest) -> list[int]:
    """The opening with as many turns as fit, tried one history after another."""
    system = [message for message in request.conditions["history"] if message.role == "system"]
    turns, prompt = request.conditions["history"][len(system) :], request.conditions["prompt"]
    longest = model.config.context_length - model._decoding(request).max_new_tokens
    for start in range(0, len(turns) + 1, 2):
        opening = model.vocabulary.prompt_tokens(prompt, [*system, *turns[start:]])
        if len(opening) <= longest:
            return opening
    return model.vocabulary.prompt_tokens(prompt, system)


def random_history(random: Random) -> tuple[Message, ...]:
    said = [
        "",
        "y",
        "你好",
        "What is AI?",
        "two and two " * 3,
        SPECIAL_TOKENS[2],
        "😀" * 9,
        "z" * 300,
    ]
    system = [Message("system", text) for text in random.sample(said[:4], random.randrange(3))]
    roles: list[Role] = ["user", "assistant"] * random.randrange(20)
    return (*system, *(Message(role, random.choice(said)) for role in roles))


@pytest.mark.parametrize("kind", ["bpe", "bytes", "characters", "template"])
def test_the_turns_that_are_kept_are_those_that_trying_one_by_one_would_keep(
    tmp_path: Path, kind: str
) -> None:
    settings = {"context_length": 96, "max_new_tokens": 16}
    if kind == "template":
        model = with_template(tmp_path, CHATML, **settings)
    else:
        model = small_model(tokenizer=kind, **settings)
    random, cut = Random(0), 0
    for _ in range(50):
        request = SampleRequest(0, {"prompt": "Now?", "history": random_history(random)})
        opening = model._prompt_tokens(request)
        assert opening == first_that_fits(model, request)
        cut += opening != model.vocabulary.prompt_tokens("Now?", request.conditions["history"])
    assert 5 < cut < 50


def test_a_long_history_is_tokenised_a_few_times_for_all_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded: list[int] = []
    encode = Vocabulary.encode

    def counted(self: Vocabulary, texts: Sequence[str]) -> list[list[int]]:
        encoded.append(len(texts))
        return encode(self, texts)

    model = small_model(tokenizer="bytes", context_length=64, max_new_tokens=1)
    history = [Message(role, "y") for role in ("user", "assistant")] * 500
    monkeypatch.setattr(Vocabulary, "encode", counted)
    asked = requests(model, 64, seed=0, conditions={"prompt": "Now?", "history": history})
    assert len(generate(model, asked)) == 64
    assert sum(encoded) < 12 * len(history)


def test_a_prompt_keeps_its_marks_text_while_another_is_framed() -> None:
    vocabulary, stopped = Vocabulary.of_bytes(DIALOGUE), threading.Event()

    def frame() -> None:
        while not stopped.is_set():
            vocabulary._template_tokens([(SPECIAL_TOKENS[0], None)])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(1) as pool:
            framing = pool.submit(frame)
            found = [vocabulary.encode([SPECIAL_TOKENS[2]])[0] for _ in range(30_000)]
            stopped.set()
            framing.result()
    finally:
        sys.setswitchinterval(interval)
    assert not any(vocabulary.end in ids for ids in found)


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ((Message("assistant", "a"),), "message 1 has the role assistant, expected user"),
        ((Message("user", "a"), Message("user", "b")), "message 2 has the role user"),
        ((Message("user", "a"),), "add the assistant's answer"),
        ((*TURNS, Message("system", "s")), "message 3 has the role system"),
    ],
)
def test_turns_out_of_order_are_refused(history: tuple[Message, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        small_model().check(SampleRequest(0, {"prompt": "x", "history": history}))


def test_a_mark_that_a_person_types_is_text() -> None:
    vocabulary = Vocabulary.of_bytes(DIALOGUE)
    history = (Message("user", SPECIAL_TOKENS[2]), Message("assistant", SPECIAL_TOKENS[1]))
    opening = vocabulary.prompt_tokens("".join(SPECIAL_TOKENS), history)
    assert opening.count(vocabulary.end) == 1
    assert opening.count(vocabulary.turn[0]) == 2


def test_the_system_message_stays_or_the_request_is_refused() -> None:
    model = small_model(tokenizer="bytes", context_length=48)
    history = (Message("system", "s" * 30), *TURNS)
    opening = model._prompt_tokens(SampleRequest(0, {"prompt": "Now?", "history": history}))
    assert opening == model.vocabulary.prompt_tokens("Now?", history[:1])
    longer = SampleRequest(0, {"prompt": "Now?", "history": (Message("system", "s" * 44), *TURNS)})
    with pytest.raises(ModelError, match="the prompt with its system message has 48 characters"):
        model.check(longer)


def test_a_beginning_of_a_text_stands_in_no_frame() -> None:
    model = small_model(tokenizer="bytes")
    request = SampleRequest(0, {"prefix": "Now?"})
    assert (
        model._prompt_tokens(request)
        == model._prompt_tokens(SampleRequest(0, {"prompt": "Now?"}))[:-1]
    )
