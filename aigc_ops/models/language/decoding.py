"""Which token comes next, and how the text of tokens is told while they come."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from aigc_ops.models.language.pretrained import Pretrained
    from aigc_ops.models.language.tokenizer import Vocabulary
    from aigc_ops.models.language.transformer import Transformer


@dataclass(frozen=True)
class Decoding:
    """How the tokens of one text are drawn."""

    temperature: float
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int
    """Draw among so many of the likeliest tokens; 0: among all."""
    top_p: float
    """Draw among the likeliest tokens that together have this probability."""
    repetition_penalty: float
    """Divides the score of tokens that stand in prompt or text already (Keskar et al. 2019)."""
    max_new_tokens: int


class Choice:
    """Draws each row's next token, by its own settings and its own noise."""

    def __init__(
        self,
        settings: Sequence[Decoding],
        openings: Sequence[Sequence[int]],
        generators: Sequence[torch.Generator],
        *,
        num_tokens: int,
    ) -> None:
        longest = max(each.max_new_tokens for each in settings)
        # A shorter text's noise is the beginning of a longer one's.
        self._noise = torch.stack(
            [torch.rand(longest, generator=each, dtype=torch.float64) for each in generators]
        )
        self._temperature = _column([each.temperature for each in settings])
        top_k = [min(each.top_k or num_tokens, num_tokens) for each in settings]
        self._top_k, self._num = _column(top_k), max(top_k)
        self._top_p = _column([each.top_p for each in settings])
        self._penalty = _column([each.repetition_penalty for each in settings])
        self._is_greedy = (self._temperature == 0)[:, 0]
        self._used: Tensor | None = None
        if bool((self._penalty != 1).any()):
            self._used = torch.zeros(len(settings), num_tokens, dtype=torch.bool)
            for row, opening in enumerate(openings):
                self._used[row, list(opening)] = True

    def draw(self, logits: Tensor, step: int) -> Tensor:
        """(N,) ids from logits (N, V) on the CPU."""
        if self._used is not None:
            logits = logits.double()
            weaker = torch.where(logits > 0, logits / self._penalty, logits * self._penalty)
            logits = torch.where(self._used[:, : logits.shape[-1]], weaker, logits)
        chosen = logits.argmax(-1)
        if not self._is_greedy.all():
            drawn = self._draw(logits, self._noise[:, step, None])
            chosen = torch.where(self._is_greedy, chosen, drawn)
        if self._used is not None:
            self._used[torch.arange(len(chosen)), chosen] = True
        return chosen

    def _draw(self, logits: Tensor, noise: Tensor) -> Tensor:
        values, ids = logits.topk(min(self._num, logits.shape[-1]))
        values = values.double()  # the largest first: divided by however little, it stays 0
        values = (values - values[:, :1]) / self._temperature.where(self._temperature > 0, 1.0)
        values = values.masked_fill(torch.arange(values.shape[-1]) >= self._top_k, -torch.inf)
        shares = values.softmax(-1)
        cumulative = shares.cumsum(-1)
        kept = (cumulative - shares) < self._top_p
        mass = (shares * kept).sum(-1, keepdim=True)
        last = (kept & (shares > 0)).sum(-1, keepdim=True) - 1
        place = (cumulative <= noise * mass).sum(-1, keepdim=True).minimum(last)
        return ids.gather(1, place)[:, 0]


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def continuations(
    network: "Transformer | Pretrained",
    openings: Sequence[Sequence[int]],
    choice: Choice,
    *,
    context_length: int,
) -> Iterator[list[int]]:
    """The ids (N,) that follow the openings, one step after another, without end.

    Rows end together; padding stands before the shorter ones, and none looks at it.
    """
    device = next(network.parameters()).device
    tokens, valid = (tensor.to(device) for tensor in pad_left(openings))
    positions = (valid.cumsum(1) - 1).clamp(min=0)
    # Padding looks at itself: a softmax over nothing would be NaN and spread.
    own = torch.eye(tokens.shape[1], dtype=torch.bool, device=device)
    mask = (valid[:, None, None, :] & torch.ones_like(own).tril()) | own
    cache = network.new_cache()
    for step in count():
        logits = network(tokens, positions=positions, mask=mask, cache=cache, last_only=True)
        new = choice.draw(logits[:, -1].float().cpu(), step)
        yield new.tolist()
        # A row that has ended runs on unread, at a position the network still knows.
        positions = (positions[:, -1:] + 1).clamp(max=context_length - 1)
        tokens = new[:, None].to(device)
        valid = functional.pad(valid, (0, 1), value=True)
        mask = valid[:, None, None, :]


def pad_left(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids (N, T) int64 ending together, and (N, T) bool where they are no padding."""
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    valid = torch.zeros(len(rows), longest, dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, longest - len(row) :] = torch.tensor(row)
        valid[index, longest - len(row) :] = True
    return ids, valid


class Wording:
    """The text of one row's ids, told in whole characters as they come.

    It ends at the end mark, when its tokens are spent, or before a stop string; what might
    yet become one is held back until that is known.
    """

    def __init__(
        self,
        vocabulary: "Vocabulary",
        opening: Sequence[int],
        *,
        max_tokens: int,
        stop: Sequence[str] = (),
    ) -> None:
        self._vocabulary, self._left, self._stop = vocabulary, max_tokens, list(stop)
        # Some tokenizers drop a leading space unless they see what stands before it.
        self._ids, self._told, self._seen = list(opening), 0, len(opening)
        self._held = ""
        self.text = ""
        self.ended = max_tokens == 0

    def add(self, token: int) -> str:
        """What the next id adds to the text, often nothing yet; nothing once it has ended."""
        if self.ended:
            return ""
        self._left -= 1
        self.ended = token == self._vocabulary.end or self._left == 0
        if token != self._vocabulary.end:
            self._ids += self._vocabulary.spoken(token)
            self._held += self._decoded()
        places = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if places:
            self.ended, self._held = True, self._held[: min(places)]
        keep = 0 if self.ended else max(map(self._overlap, self._stop), default=0)
        told, self._held = _cut(self._held, keep)
        self.text += told
        return told

    def _decoded(self) -> str:
        """What the newest ids add, once it ends in a whole character; nothing before that."""
        decode = self._vocabulary.tokenizer.decode
        before = decode(self._ids[self._told : self._seen])
        text = decode(self._ids[self._told :])
        if text.endswith("\ufffd") or len(text) <= len(before):
            return ""
        self._told, self._seen = self._seen, len(self._ids)
        return text[len(before) :]

    def _overlap(self, stop: str) -> int:
        """How many last characters of what is held are the beginning of a stop string."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)


def _cut(text: str, num_last: int) -> tuple[str, str]:
    return text[: len(text) - num_last], text[len(text) - num_last :]
