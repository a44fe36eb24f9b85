"""What the GPT family keeps: exact likelihoods, rows that do not know their neighbours."""

import copy
import time
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from aigc_ops.core.atomic_dirs import write_folder
from aigc_ops.core.errors import ModelError
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.modalities.text.model import TextData
from aigc_ops.models import gpt
from aigc_ops.models.gpt import Gpt, GptConfig
from aigc_ops.models.language.decoding import Detokenizer
from aigc_ops.models.language.likelihood import score
from aigc_ops.models.language.packing import IGNORED, windows
from aigc_ops.models.language.tokenizer import SPECIAL_TOKENS, Vocabulary
from aigc_ops.models.language.transformer import _Heads
from aigc_ops.storage.checkpoints import load_model, write_model
from tests.conftest import noise_for
from tests.models.dialogue import (
    ANSWERS,
    DIALOGUE,
    DOCUMENTS,
    QUESTIONS,
    SMALL,
    next_log_probabilities,
    requests_of_unlike_lengths,
    small_model,
    train,
)

ODD_TEXTS = [
    "",
    " a  b\r\n\tc ",
    "naïve 你好 😀👩‍👧",
    "\x00\x7f\u202e\ufffd!",
    "".join(SPECIAL_TOKENS),
    "\U0010ffff",
]


def text_of(vocabulary: Vocabulary, opening: list[int], ids: list[int]) -> str:
    """The text of ids that were drawn after an opening."""
    detokenizer = Detokenizer(vocabulary, opening, max_tokens=len(ids))
    pieces = "".join(detokenizer.append(token) for token in ids)
    assert pieces == detokenizer.text
    return detokenizer.text


# The vocabulary


@pytest.mark.parametrize("tokenizer", ["bpe", "bytes"])
@pytest.mark.parametrize("text", [*ODD_TEXTS, *QUESTIONS])
def test_every_unicode_text_comes_back_from_its_tokens(tokenizer: str, text: str) -> None:
    vocabulary = copy.deepcopy(small_model(tokenizer=tokenizer)).vocabulary
    (ids,) = vocabulary.encode([text])
    assert not {vocabulary.start, vocabulary.end, *vocabulary.turn} & set(ids)
    assert text_of(vocabulary, vocabulary.prompt_tokens("你"), ids) == text.rstrip("\ufffd")


def test_equal_data_gives_an_equal_vocabulary() -> None:
    records = [Vocabulary.learn(DIALOGUE, 300).record() for _ in range(3)]
    assert records[0] == records[1] == records[2]
    assert Vocabulary.from_record(records[0]).record() == records[0]


def test_a_broken_last_character_is_dropped_and_the_end_ends() -> None:
    vocabulary = Vocabulary.of_bytes(DIALOGUE)
    (ids,) = vocabulary.encode(["好啊"])
    assert text_of(vocabulary, [vocabulary.start], ids[:-1]) == "好"
    assert text_of(vocabulary, [vocabulary.start], [*ids[:3], vocabulary.end, *ids]) == "好"


def test_a_turn_within_a_drawn_text_reads_as_a_new_line() -> None:
    vocabulary = Vocabulary.learn(DIALOGUE, 300)
    question, answer = vocabulary.encode(["Who?", "Me."])
    assert text_of(
        vocabulary, vocabulary.prompt_tokens(None), [*question, *vocabulary.turn, *answer]
    ) == ("Who?\nMe.")


# Training examples


@pytest.mark.parametrize("data", [DIALOGUE, DOCUMENTS])
def test_the_training_loss_is_the_mean_negative_log_likelihood_however_packed(
    data: TextData,
) -> None:
    model = small_model(data, train_on_prompts=False, context_length=128)
    examples = model.examples(data)
    assert len(examples["inputs"]) < len(data)  # several documents share a row
    ((_, loss, *_),) = model.losses(examples, noise_for(examples))
    totals, counts = model.log_likelihood(data)
    assert model.example_units(examples) == counts.sum()
    assert loss.item() == pytest.approx(-(totals.sum() / counts.sum()).item(), rel=1e-5)


@pytest.mark.parametrize(("settings", "trained"), [({"train_on_prompts": True}, 7), ({}, 4)])
def test_each_token_is_a_target_once_and_prompts_only_when_asked(
    settings: dict[str, bool], trained: int
) -> None:
    data = TextData(["abc"], ["xy"])
    model = small_model(data, tokenizer="bytes", **settings)
    (targets,) = model.examples(data)["targets"].tolist()
    vocabulary = model.vocabulary
    prompt, text = vocabulary.encode(["xy", "abc"])
    whole = [*prompt, *vocabulary.turn, *text, vocabulary.end]
    assert [t for t in targets if t != IGNORED] == whole[-trained:]


def test_long_texts_are_cut_into_rows_and_none_is_without_a_target() -> None:
    data = TextData(["y" * 1000, "z"], ["q" * 500, "r"])
    model = small_model(data, tokenizer="bytes", train_on_prompts=False)
    examples = model.examples(data)
    assert model.example_units(examples) == 1000 + 1 + 2
    assert (examples["targets"] != IGNORED).any(1).all()
    assert examples["positions"].max() < model.config.context_length


def test_the_loss_is_the_usual_one_however_few_rows_are_taken_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpt, "LOGITS_AT_ONCE", 3 * 11)
    logits = torch.randn(10, 11, requires_grad=True)
    targets = torch.tensor([1, 2, IGNORED, 4, 5, IGNORED, IGNORED, 0, 10, 3])
    losses = [gpt._cross_entropy(logits, targets), functional.cross_entropy(logits, targets)]
    torch.testing.assert_close(losses[0], losses[1])
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in losses]
    torch.testing.assert_close(*gradients)


def test_heads_are_turned_by_their_positions_angles_and_their_gradients_back() -> None:
    packed = torch.randn(2, 5, 3 * 16, dtype=torch.float32, requires_grad=True)
    angles = torch.randn(2, 5, 1, 2)
    heads = packed.view(2, 5, 3, 4, 4).permute(2, 0, 3, 1, 4)
    pairs = torch.complex(heads[:2, ..., :2], heads[:2, ..., 2:])
    turned = torch.view_as_real(pairs * torch.polar(torch.ones(2, 1, 5, 2), angles.transpose(1, 2)))
    expected = (*torch.cat([turned[..., 0], turned[..., 1]], -1), heads[2])
    found = _Heads.apply(packed, angles.cos(), angles.sin(), 4)
    torch.testing.assert_close(found, expected)
    weights = [torch.randn_like(each) for each in expected]
    gradients = [torch.autograd.grad(each, packed, weights)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_only_matrices_decay() -> None:
    decaying, fixed = small_model().optimizer("network").param_groups
    assert decaying["weight_decay"] == 0.1
    assert fixed["weight_decay"] == 0
    assert all(p.ndim >= 2 for p in decaying["params"])
    assert all(p.ndim == 1 for p in fixed["params"])


def test_a_few_answers_are_learnt_by_heart_in_bf16() -> None:
    torch.manual_seed(0)
    config = GptConfig(**{**SMALL, "width": 64}, dropout=0.0, temperature=0)
    model = Gpt.from_data(config, DIALOGUE)
    losses = train(model, DIALOGUE, steps=100)
    assert losses[-1] < 0.1 * losses[0]
    requests = [SampleRequest(0, {"prompt": question}) for question in QUESTIONS]
    assert model.sample(requests) == ANSWERS


# Network and likelihood


def test_only_the_distance_between_tokens_counts_not_where_they_stand() -> None:
    model = small_model(dropout=0.0)
    tokens, here = torch.randint(300, (1, 20)) % model.vocabulary.size, torch.arange(20)[None]
    with torch.no_grad():
        at_start = model.network(tokens, positions=here)
        further = model.network(tokens, positions=here + 100)
        wider = model.network(tokens, positions=here * 2)
    assert torch.allclose(at_start, further, atol=1e-5)
    assert not torch.allclose(at_start, wider, atol=1e-2)


def test_the_log_likelihood_is_the_sum_over_the_text_and_its_end_alone() -> None:
    model = small_model()
    vocabulary = model.vocabulary
    totals, counts = model.log_likelihood(DIALOGUE)
    assert totals.dtype == torch.float64
    for prompt, text, total, count in zip(QUESTIONS, ANSWERS, totals, counts, strict=True):
        opening = vocabulary.prompt_tokens(prompt)
        targets = [*vocabulary.encode([text])[0], vocabulary.end]
        table = next_log_probabilities(model, [*opening, *targets[:-1]])[len(opening) - 1 :]
        by_hand = sum(table[i, target].item() for i, target in enumerate(targets))
        assert count == len(targets)
        assert total.item() == pytest.approx(by_hand, abs=1e-4)


def test_the_probabilities_of_all_next_tokens_sum_to_one() -> None:
    model = small_model(tokenizer="bytes")
    start, size = model.vocabulary.start, model.vocabulary.size
    with torch.no_grad():
        scores = score(model.network, torch.full((size, 1), start), torch.arange(size)[:, None])
    assert scores.exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert scores.exp().max() > 2 / size  # and they are not all the same


def test_a_text_scores_the_same_alone_and_among_others() -> None:
    model = small_model(DOCUMENTS)
    together, _ = model.log_likelihood(DOCUMENTS)
    alone = [model.log_likelihood(TextData([text]))[0] for text in DOCUMENTS.texts]
    assert torch.allclose(together, torch.cat(alone), rtol=0, atol=1e-4)


@pytest.mark.parametrize("first", [1, 5, 40])
@pytest.mark.parametrize("length", [2, 9, 10, 11, 57])
def test_windows_predict_every_token_once_with_half_a_context_behind_it(
    first: int, length: int
) -> None:
    scored = []
    for begin, end, start in windows(length, context_length=10, overlap=5, first=first):
        assert end - begin <= 10
        assert start - begin >= min(5, start)
        scored += range(start, end + 1)
    assert scored == list(range(first, length))


def test_a_text_longer_than_the_context_is_scored_whole_by_windows() -> None:
    model = small_model(TextData(["a"]), tokenizer="bytes", context_length=16)
    (total,), (count,) = model.log_likelihood(TextData(["abcdefgh" * 10]))
    ids = next(model.vocabulary.documents(TextData(["abcdefgh" * 10]))).ids
    by_hand = 0.0
    for index in range(1, len(ids)):
        begin = 0 if index <= 16 else index - 8 - (index - 17) % 9
        by_hand += next_log_probabilities(model, ids[begin:index])[-1, ids[index]].item()
    assert count == 81
    assert total.item() == pytest.approx(by_hand, abs=1e-3)


def test_no_texts_have_no_likelihoods_and_no_samples() -> None:
    totals, counts = small_model().log_likelihood(TextData([], []))
    assert totals.shape == counts.shape == (0,)
    assert small_model().sample([]) == []


# Sampling


@pytest.mark.parametrize("tokenizer", ["bpe", "bytes"])
def test_a_sample_is_the_same_alone_and_among_seven_others(tokenizer: str) -> None:
    model = small_model(tokenizer=tokenizer, temperature=1.0, top_k=None)
    requests = requests_of_unlike_lengths()
    together = model.sample(requests)
    assert together == [model.sample([request])[0] for request in requests]
    assert len(set(together)) > 4
    for text in together:
        assert not text.encode().decode().endswith("\ufffd")


def test_another_seed_draws_another_text_and_no_prompt_equals_an_empty_one() -> None:
    model = small_model(temperature=1.0)
    first, second, empty, none = model.sample(
        [
            SampleRequest(1, {"prompt": "Hi"}),
            SampleRequest(2, {"prompt": "Hi"}),
            SampleRequest(3, {"prompt": ""}),
            SampleRequest(3),
        ]
    )
    assert first != second
    assert empty == none


def test_greedy_text_equals_repeated_argmax_without_a_cache() -> None:
    model = small_model(temperature=0, max_new_tokens=20)
    vocabulary = model.vocabulary
    requests = requests_of_unlike_lengths()
    for request, text in zip(requests, model.sample(requests), strict=True):
        opening, drawn = vocabulary.prompt_tokens(request.conditions.get("prompt")), []
        while len(drawn) < 20 and vocabulary.end not in drawn:
            table = next_log_probabilities(model, [*opening, *drawn])
            drawn.append(int(table[-1].argmax()))
        assert text == text_of(vocabulary, opening, drawn)


def test_a_prompt_that_fills_the_context_leaves_its_neighbours_their_length() -> None:
    model = small_model(tokenizer="bytes", max_new_tokens=40, temperature=1.0)
    room = model.config.context_length - 1
    full = SampleRequest(1, {"prompt": "p" * (room - 2)})  # start and turn take two
    texts = model.sample([full, SampleRequest(2)])
    assert len(texts[0].encode()) <= 3  # one token, were it a replaced byte
    assert texts == [model.sample([full])[0], model.sample([SampleRequest(2)])[0]]
    with pytest.raises(
        ModelError, match=f"takes {room + 1} tokens; this model has room for {room}"
    ):
        model.check(SampleRequest(1, {"prompt": "p" * (room - 1)}))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (SampleRequest(0, {"label": 3}), "takes no label"),
        (SampleRequest(0, {"prompt": "a\ud800"}), r"character 1 .* \(U\+D800\)"),
    ],
)
def test_requests_it_cannot_serve_are_refused(request_: SampleRequest, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        small_model().check(request_)


def test_a_prompt_of_a_megabyte_is_refused_at_once() -> None:
    model = small_model()
    started = time.perf_counter()
    with pytest.raises(ModelError, match="1000000 characters and takes far more tokens"):
        model.check(SampleRequest(0, {"prompt": "a" * 1_000_000}))
    assert time.perf_counter() - started < 0.1


# At rest


@pytest.mark.parametrize("data", [DIALOGUE, DOCUMENTS])
@pytest.mark.parametrize("tokenizer", ["bpe", "bytes"])
def test_a_stored_model_speaks_as_before(tmp_path: Path, data: TextData, tokenizer: str) -> None:
    model = small_model(data, tokenizer=tokenizer)
    write_folder(tmp_path / "model", lambda folder: write_model(model, folder))
    loaded = load_model(tmp_path / "model")
    assert isinstance(loaded, Gpt)
    assert loaded.blueprint() == model.blueprint()
    requests = requests_of_unlike_lengths()
    assert loaded.sample(requests) == model.sample(requests)
    assert torch.equal(loaded.log_likelihood(data)[0], model.log_likelihood(data)[0])


def test_a_width_that_heads_cannot_share_is_refused_with_one_that_fits() -> None:
    with pytest.raises(ValidationError, match="multiple of 2 x num_heads = 8; take 128"):
        GptConfig(width=130, num_heads=4)
