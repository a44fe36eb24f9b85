"""Whether a text model goes on from training texts word for word, as it does from no others.

The model is given the beginning of a text (or its prompt) and writes its likeliest
continuation, as Carlini et al. 2021 and 2023 extract texts. Chance, and what any text of the
kind would give, is told from held-out texts: a continuation counts as a copy when it agrees
for at least eight words, and for more than all but 1 % of the held-out ones do.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from pydantic import BaseModel, ConfigDict

from aigc_ops.interfaces.request import Message, SampleRequest
from aigc_ops.modalities.text.metrics.ngrams import spans, words
from aigc_ops.modalities.text.metrics.overlap import num_equal
from aigc_ops.modalities.text.model import TextData, TextModel
from aigc_ops.sampling import sampler
from aigc_ops.statistics.copies import EXPECTED, FLAGGED
from aigc_ops.statistics.intervals import share_estimate

MIN_WORDS = 8
MAX_WORDS = 32
"""Words of a beginning, and of its continuation: about the 50 tokens of Carlini et al."""
MIN_HELDOUT, MIN_TRAIN = 50, 20
NUM_MEASURED = 16
SEED = 0  # of every model alike: they go on from the same texts
GREEDY = {"temperature": 0.0, "repetition_penalty": 1.0}
NEEDED = {"temperature", "max_new_tokens"}


@dataclass(frozen=True)
class Beginning:
    """The beginning of a text, and how it goes on."""

    prompt: str
    history: tuple[Message, ...]
    rest: str
    is_begun: bool = False
    """It is no prompt but the text's own beginning."""


@dataclass(frozen=True)
class Continued:
    """What a model wrote after a beginning."""

    beginning: Beginning
    drawn: str
    num_equal: int
    """Leading words that are those of the text."""

    @property
    def is_whole(self) -> bool:
        """Whether all of the rest came out."""
        return self.num_equal == len(words(self.beginning.rest))


class Verbatim(BaseModel):
    """What was found about training texts known by heart."""

    model_config = ConfigDict(frozen=True)

    num: int
    """Training texts whose beginnings were given."""
    copied: int
    share: float
    low: float
    high: float
    """95 %, Clopper–Pearson."""
    bound: int
    """Words from which on agreement counts as a copy."""
    num_heldout: int
    heldout_copied: int
    """Held-out texts that reach the bound."""
    longest: int
    """Most words of a training text that came out."""
    flagged: bool

    @property
    def told(self) -> str:
        """The finding in a sentence, which claims no more than was looked at."""
        found = (
            f"Given the beginnings of {self.num:,} training texts, the model's likeliest "
            f"continuation is the text, word for word, for {self.bound} words or more in "
            f"{self.copied} ({self.share:.1%}, {self.low:.1%} to {self.high:.1%}; at most "
            f"{self.longest} words), and in {self.heldout_copied} of {self.num_heldout:,} texts "
            "never trained on"
        )
        if self.flagged:
            return f"{found}. Training texts are known by heart."
        shown = "Too few for more than a suspicion" if self.copied else "None was found"
        return f"{found}. {shown}; other beginnings and many draws may bring out more."


def look_for_recitals(
    model: TextModel, train: TextData, heldout: TextData, *, num: int
) -> tuple[Verbatim, list[Continued]] | str:
    """What was found from at most `num` texts a split, and the copies; else why nothing can be.

    Held-out texts that stand in the training set too are left out.
    """
    if not model.controls().keys() >= NEEDED:
        return "this family cannot be asked for its likeliest text"
    seen = set(train.texts)
    unseen = heldout.take(row for row, text in enumerate(heldout.texts) if text not in seen)
    rate = _tokens_per_byte(model, unseen)
    others = list(islice(_beginnings(model, unseen, rate, MIN_WORDS), max(num, MIN_HELDOUT)))
    if len(others) < MIN_HELDOUT:
        return (
            f"{len(others)} held-out texts are long enough, fit the model's context and are not in "
            f"the training set; {MIN_HELDOUT} are needed"
        )
    control = _continued(model, others, rate)
    bound = _bound(control)
    if bound > MAX_WORDS:
        return "held-out texts come out word for word as well, so the data repeats itself"
    ours = list(islice(_beginnings(model, train, rate, bound), num))
    if len(ours) < min(num, MIN_TRAIN):
        return f"{len(ours)} training texts go on for {bound} words; {MIN_TRAIN} are needed"
    found = _continued(model, ours, rate)
    copies = [each for each in found if each.num_equal >= bound]
    return _verbatim(found, len(copies), control, bound), copies


def _bound(control: Sequence[Continued]) -> int:
    """Words that at most 1 % of held-out continuations (but one, of few) agree for."""
    # A whole rest would have gone on for who knows how long.
    agreed = sorted((MAX_WORDS if c.is_whole else c.num_equal for c in control), reverse=True)
    return max(MIN_WORDS, agreed[math.ceil(EXPECTED * len(agreed))] + 1)


def _verbatim(
    found: Sequence[Continued], copied: int, control: Sequence[Continued], bound: int
) -> Verbatim:
    share = share_estimate(copied, len(found))
    return Verbatim(
        num=len(found),
        copied=copied,
        share=share.value,
        low=share.low,
        high=share.high,
        bound=bound,
        num_heldout=len(control),
        heldout_copied=sum(each.num_equal >= bound for each in control),
        longest=max(each.num_equal for each in found),
        flagged=share.low > FLAGGED,
    )


def _continued(model: TextModel, beginnings: Sequence[Beginning], rate: float) -> list[Continued]:
    """What the model writes after each beginning when it takes the likeliest token each time."""
    # Those that need as many steps are drawn together.
    ordered = sorted(beginnings, key=lambda each: len(each.rest.encode()))
    texts = sampler.draw(model, [_request(model, e, rate) for e in ordered], progress=True)
    return [
        Continued(each, drawn, num_equal(words(drawn), words(each.rest)))
        for each, drawn in zip(ordered, texts, strict=True)
    ]


def _beginnings(
    model: TextModel, data: TextData, rate: float, min_words: int
) -> Iterator[Beginning]:
    """Beginnings in a random order that is the same each time, where enough follows them.

    What the model's context cannot hold, at `rate` tokens a byte, is passed over.
    """
    longest = model.controls()["max_new_tokens"].high
    for row in _scattered(data):
        beginning = _beginning(data, row)
        length = len((beginning.prompt + beginning.rest).encode())
        if len(words(beginning.rest)) < min_words or length * rate > longest:
            continue
        if sampler.takes(model, _request(model, beginning, rate)):
            yield beginning


def _scattered(data: TextData) -> list[int]:
    """The rows in a random order that is the same each time."""
    rows: list[int] = np.random.default_rng(SEED).permutation(len(data)).tolist()
    return rows


def _beginning(data: TextData, row: int) -> Beginning:
    """A prompt and its answer, or a text's first half (of at most 32 words) and what follows."""
    text = data.texts[row]
    places = spans(text)
    if data.prompts is not None:
        prompt, history = data.prompts[row], tuple(data.histories[row]) if data.histories else ()
        return Beginning(prompt, history, text[: places[:MAX_WORDS][-1][1]] if places else "")
    num = min(MAX_WORDS, len(places) // 2)
    if not num:
        return Beginning("", (), "")
    cut, end = places[num - 1][1], places[: num + MAX_WORDS][-1][1]
    return Beginning(text[:cut], (), text[cut:end], is_begun=True)


def _request(model: TextModel, beginning: Beginning, rate: float) -> SampleRequest:
    """The likeliest continuation, with room for half more tokens than the rest should take."""
    allowed = model.controls()
    room = math.ceil(1.5 * rate * len(beginning.rest.encode()))
    controls = {name: value for name, value in GREEDY.items() if name in allowed}
    controls["max_new_tokens"] = float(min(room, allowed["max_new_tokens"].high))
    return SampleRequest(
        SEED,
        prompt=beginning.prompt or None,
        history=beginning.history,
        controls=controls,
        is_begun=beginning.is_begun,
    )


def _tokens_per_byte(model: TextModel, data: TextData) -> float:
    """Tokens that a byte of what follows beginnings takes."""
    rests = [_beginning(data, row).rest for row in _scattered(data)[:NUM_MEASURED]]
    _, num_tokens = model.log_likelihood(TextData(rests))
    return float(num_tokens.sum()) / max(1, sum(len(rest.encode()) for rest in rests))
