"""Figures of variety, by hand and at their ends."""

import pytest

from aigc_ops.modalities.text.metrics.ngrams import (
    distinct,
    ngrams,
    repetition,
    self_bleu,
    spans,
    words,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World!", ["hello", ",", "world", "!"]),
        ("你好 GPT2。", ["你", "好", "gpt2", "。"]),
        ("naïve café", ["naïve", "café"]),
        ("😀😀", ["😀", "😀"]),
        (" \n", []),
    ],
)
def test_words_of_any_script(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_ngrams_are_runs_of_words() -> None:
    assert ngrams(["a", "b", "c"], 2) == [("a", "b"), ("b", "c")]
    assert ngrams(["a", "b"], 3) == []


@pytest.mark.parametrize("text", ["Hello, World!", "你好 GPT2。", "  naïve\ncafé "])
def test_spans_are_where_the_words_stand(text: str) -> None:
    assert [text[start:end].lower() for start, end in spans(text)] == words(text)


def test_distinct_counts_over_all_texts_together() -> None:
    found = distinct(["a b a b", "a b c"], 2)  # ab ba ab ab bc
    assert found is not None
    assert found.value == pytest.approx(3 / 5)
    assert found.low <= found.value <= found.high


def test_one_text_said_again_and_again_is_not_distinct() -> None:
    same = distinct(["one two three"] * 50, 2)
    varied = distinct([f"{i} {i + 1}" for i in range(50)], 2)
    assert same is not None
    assert varied is not None
    assert same.value == pytest.approx(2 / 100)
    assert varied.value == 1


def test_repetition_counts_within_each_text_alone() -> None:
    none = repetition(["a b c d e"] * 10, seed=0)
    again = repetition(["x y z w x y z w"], seed=0)  # five 4-grams, the last as the first
    assert none is not None
    assert again is not None
    assert none.value == 0
    assert again.value == pytest.approx(1 / 5)


def test_texts_without_words_have_no_figures() -> None:
    assert distinct(["", " "], 1) is None
    assert repetition(["a b c"], seed=0) is None
    assert self_bleu(["a b c d", ""]) is None


CATS = [
    "the cat sat on the mat .",
    "the dog sat on the mat today",
    "a cat sat on a mat .",
    "the the the the cat",
]


def test_self_bleu_is_the_mean_bleu_against_the_others() -> None:
    # nltk 3.10.4: sentence_bleu with SmoothingFunction().method1, each against the other three.
    expected = [0.6223329772884784, 0.4347208719449914, 0.20556680845025987, 0.08428828344718171]
    found = self_bleu(CATS)
    assert found is not None
    assert found.value == pytest.approx(sum(expected) / 4, rel=1e-12)
    assert found.low < found.value < found.high


def test_self_bleu_tells_texts_that_say_the_same() -> None:
    same = self_bleu(["yes ."] * 20)
    varied = self_bleu([f"{i} {i + 1}" for i in range(0, 40, 2)])
    assert same is not None
    assert varied is not None
    assert (same.value, same.low, same.high) == (1, 1, 1)
    assert varied.value == 0
