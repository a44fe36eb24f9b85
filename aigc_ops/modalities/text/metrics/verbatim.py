"""Verbatim memorisation: training texts that a model reproduces from their beginnings.

The model continues the beginning of a text (or its prompt) greedily, as Carlini et al. 2021 and
2023 extract texts. Held-out texts are the control for agreement by chance: a continuation
counts as a copy if it agrees with the text for at least eight words, and for more words than
all but 1 % of the held-out continuations.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
from pydantic import BaseModel, ConfigDict

from aigc_ops.interfaces.request import Message, SampleRequest
from aigc_ops.modalities.text.metrics.ngrams import spans, words
from aigc_ops.modalities.text.metrics.overlap import num_equal
from aigc_ops.modalities.text.model import TextData, TextModel
from aigc_ops.modalities.text.requests import HISTORY, PREFIX, PROMPT
from aigc_ops.sampling import sampler
from aigc_ops.statistics.copies import EXPECTED, FLAGGED
from aigc_ops.statistics.intervals import share_estimate

MIN_WORDS = 8
MAX_WORDS = 32  # of a beginning and of its continuation: about the 50 tokens of Carlini et al.
MIN_HELDOUT, MIN_TRAIN = 50, 20
NUM_MEASURED = 16  # texts that give the tokens per byte
SEED = 0  # the same for every model, so that all continue the same texts
# The settings of the model's own config are overridden, whatever it samples with otherwise.
GREEDY = {"temperature": 0.0, "repetition_penalty": 1.0}
NEEDED = {"temperature", "max_new_tokens"}


@dataclass(frozen=True)
class Beginning:
    """The beginning of a text, and the rest of it."""

    prompt: str
    history: tuple[Message, ...]
    rest: str
    is_prefix: bool = False
    """True if `prompt` is the beginning of the text itself rather than a question."""


@dataclass(frozen=True)
class Continuation:
    """A model's continuation of a beginning."""

    beginning: Beginning
    text: str
    num_equal: int
    """Number of leading words that agree with the original text."""

    @property
    def is_whole(self) -> bool:
        """Return True if the whole rest was reproduced."""
        return self.num_equal == len(words(self.beginning.rest))


class VerbatimMemorisation(BaseModel):
    """Result of the test for verbatim memorisation."""

    model_config = ConfigDict(frozen=True)

    num: int
    """Number of training texts whose beginnings were continued."""
    copied: int
    share: float
    low: float
    high: float
    """95 % Clopper–Pearson interval of `share`."""
    bound: int
    """Number of equal words from which a continuation counts as a copy."""
    num_heldout: int
    heldout_copied: int
    """Number of held-out texts that reach the bound."""
    longest: int
    """Largest number of words of a training text that were reproduced."""
    flagged: bool

    @property
    def summary(self) -> str:
        """Return the result in a sentence that claims no more than was tested."""
        result = (
            f"Given the beginnings of {self.num:,} training texts, the greedy continuation "
            f"reproduces {self.bound} words or more verbatim for {self.copied} of them "
            f"({self.share:.1%}, {self.low:.1%} to {self.high:.1%}; at most {self.longest} words), "
            f"and for {self.heldout_copied} of {self.num_heldout:,} held-out texts"
        )
        if self.flagged:
            return f"{result}. Training texts are memorised verbatim."
        extent = "Too few to prove memorisation" if self.copied else "No copies were found"
        return f"{result}. {extent}; other beginnings or repeated sampling may reveal more."


def detect_verbatim_copies(
    model: TextModel,
    train: TextData,
    heldout: TextData,
    *,
    num: int,
    generate: Callable[[Sequence[SampleRequest]], list[str]] | None = None,
) -> tuple[VerbatimMemorisation, list[Continuation]] | str:
    """Return the result for at most `num` texts per split, and the copies.

    `generate` returns the model's texts; None: they are generated. Returns the reason, as a
    string, if memorisation cannot be measured.
    """
    generate = generate or partial(sampler.generate, model, progress=True)
    if not model.controls().keys() >= NEEDED:
        return "this family has no controls for greedy decoding"
    # 1. Continue held-out texts. They measure how often agreement arises without training on a
    #    text, so those that are in the training set too are excluded.
    seen = set(train.texts)
    unseen = heldout.take(row for row, text in enumerate(heldout.texts) if text not in seen)
    rate = _tokens_per_byte(model, unseen)
    others = list(islice(_beginnings(model, unseen, rate, MIN_WORDS), max(num, MIN_HELDOUT)))
    if len(others) < MIN_HELDOUT:
        return (
            f"only {len(others)} held-out texts are long enough, fit the model's context and are "
            f"not in the training set; {MIN_HELDOUT} are needed"
        )
    # 2. Set the bound from the control. If it exceeds the length of a continuation, memorisation
    #    can't be distinguished from repetition within the data.
    control = _continued(model, others, rate, generate)
    bound = _bound(control)
    if bound > MAX_WORDS:
        return "held-out texts are reproduced verbatim as well, so the data repeats itself"
    # 3. Continue training texts whose rest is at least as long as the bound: a shorter one could
    #    never count as a copy and would lower the share.
    beginnings = list(islice(_beginnings(model, train, rate, bound), num))
    if len(beginnings) < min(num, MIN_TRAIN):
        num = len(beginnings)
        return f"only {num} training texts continue for {bound} words; {MIN_TRAIN} are needed"
    continuations = _continued(model, beginnings, rate, generate)
    copies = [c for c in continuations if c.num_equal >= bound]
    return _verbatim(continuations, len(copies), control, bound), copies


def _bound(control: Sequence[Continuation]) -> int:
    """Return the number of equal words that at most 1 % of held-out continuations reach.

    Of fewer than 100 continuations, one may reach it.
    """
    # A full match is right-censored: the text ended before the agreement did.
    agreed = sorted((MAX_WORDS if c.is_whole else c.num_equal for c in control), reverse=True)
    # In descending order the first k = ceil(1 % of n) entries may reach the bound, entry k not.
    return max(MIN_WORDS, agreed[math.ceil(EXPECTED * len(agreed))] + 1)


def _verbatim(
    continuations: Sequence[Continuation], copied: int, control: Sequence[Continuation], bound: int
) -> VerbatimMemorisation:
    share = share_estimate(copied, len(continuations))
    return VerbatimMemorisation(
        num=len(continuations),
        copied=copied,
        share=share.value,
        low=share.low,
        high=share.high,
        bound=bound,
        num_heldout=len(control),
        heldout_copied=sum(c.num_equal >= bound for c in control),
        longest=max(c.num_equal for c in continuations),
        flagged=share.low > FLAGGED,  # the lower bound: a claim needs more than chance
    )


def _continued(
    model: TextModel,
    beginnings: Sequence[Beginning],
    rate: float,
    generate: Callable[[Sequence[SampleRequest]], list[str]],
) -> list[Continuation]:
    """Return the model's greedy continuation of each beginning, ordered by length."""
    # A batch runs as long as its longest text, so texts of similar length are batched.
    ordered = sorted(beginnings, key=lambda beginning: len(beginning.rest.encode()))
    texts = generate([_request(model, each, rate) for each in ordered])
    return [
        Continuation(beginning, text, num_equal(words(text), words(beginning.rest)))
        for beginning, text in zip(ordered, texts, strict=True)
    ]


def _beginnings(
    model: TextModel, data: TextData, rate: float, min_words: int
) -> Iterator[Beginning]:
    """Yield beginnings with at least `min_words` after them, in a fixed random order.

    Texts that exceed the model's context, at `rate` tokens per byte, are skipped.
    """
    longest = model.controls()["max_new_tokens"].high
    for row in _shuffled_rows(data):
        beginning = _beginning(data, row)
        length = len((beginning.prompt + beginning.rest).encode())
        if len(words(beginning.rest)) < min_words or length * rate > longest:
            continue
        if sampler.accepts(model, _request(model, beginning, rate)):
            yield beginning


def _shuffled_rows(data: TextData) -> list[int]:
    """Return the rows in a random order that is the same at every call."""
    rows: list[int] = np.random.default_rng(SEED).permutation(len(data)).tolist()
    return rows


def _beginning(data: TextData, row: int) -> Beginning:
    """Return prompt and answer, or the first half (at most 32 words) of a text and the rest."""
    text = data.texts[row]
    word_spans = spans(text)
    if data.prompts is not None:
        prompt, history = data.prompts[row], tuple(data.histories[row]) if data.histories else ()
        return Beginning(
            prompt, history, text[: word_spans[:MAX_WORDS][-1][1]] if word_spans else ""
        )
    num = min(MAX_WORDS, len(word_spans) // 2)
    if not num:
        return Beginning("", (), "")
    # Cut behind a word, so the model receives whole words and the rest begins with its space.
    cut, end = word_spans[num - 1][1], word_spans[: num + MAX_WORDS][-1][1]
    return Beginning(text[:cut], (), text[cut:end], is_prefix=True)


def _request(model: TextModel, beginning: Beginning, rate: float) -> SampleRequest:
    """Return the request for a greedy continuation of a beginning."""
    allowed = model.controls()
    # Half more tokens than the rest should take, because texts differ in tokens per byte.
    room = math.ceil(1.5 * rate * len(beginning.rest.encode()))
    controls = {name: value for name, value in GREEDY.items() if name in allowed}
    controls["max_new_tokens"] = float(min(room, allowed["max_new_tokens"].high))
    return SampleRequest(
        SEED,
        {
            (PREFIX if beginning.is_prefix else PROMPT).name: beginning.prompt or None,
            HISTORY.name: beginning.history or None,
        },
        controls,
    )


def _tokens_per_byte(model: TextModel, data: TextData) -> float:
    """Return the mean number of tokens per byte, measured on some of the texts."""
    rests = [_beginning(data, row).rest for row in _shuffled_rows(data)[:NUM_MEASURED]]
    _, num_tokens = model.log_likelihood(TextData(rests))
    return float(num_tokens.sum()) / max(1, sum(len(rest.encode()) for rest in rests))
