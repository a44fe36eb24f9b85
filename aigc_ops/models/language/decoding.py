"""Token sampling and incremental detokenisation."""

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
    """Sampling settings of one text."""

    temperature: float
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int
    """Sample among the k likeliest tokens; 0: among all."""
    top_p: float
    """Sample among the likeliest tokens of this total probability (Holtzman et al. 2020)."""
    repetition_penalty: float
    """Penalty on tokens that the prompt or text contains already (Keskar et al. 2019)."""
    max_new_tokens: int


class TokenSampler:
    """Samples the next token of each row, with the row's own settings and noise."""

    def __init__(
        self,
        settings: Sequence[Decoding],
        prompts: Sequence[Sequence[int]],
        generators: Sequence[torch.Generator],
        *,
        num_tokens: int,
    ) -> None:
        # All noise is generated at once, so that a row's noise depends on its seed and step
        # alone: a shorter text's noise is the beginning of a longer one's.
        longest = max(row.max_new_tokens for row in settings)
        self._noise = torch.stack(
            [torch.rand(longest, generator=each, dtype=torch.float64) for each in generators]
        )
        self._temperature = _column([row.temperature for row in settings])
        top_k = [min(row.top_k or num_tokens, num_tokens) for row in settings]
        self._top_k, self._max_top_k = _column(top_k), max(top_k)
        self._top_p = _column([row.top_p for row in settings])
        self._penalty = _column([row.repetition_penalty for row in settings])
        self._is_greedy = (self._temperature == 0)[:, 0]
        # (N, V) bools cost memory and time, so they exist only where a row has a penalty.
        self._used: Tensor | None = None
        if bool((self._penalty != 1).any()):
            self._used = torch.zeros(len(settings), num_tokens, dtype=torch.bool)
            for row, prompt in enumerate(prompts):
                self._used[row, list(prompt)] = True

    def sample(self, logits: Tensor, step: int) -> Tensor:
        """Return token ids (N,) for logits (N, V) on the CPU."""
        if self._used is not None:
            # Keskar et al. 2019, section 4.1, divides every score. A negative logit would rise
            # when divided, so it is multiplied instead, as in transformers.
            logits = logits.double()
            weaker = torch.where(logits > 0, logits / self._penalty, logits * self._penalty)
            logits = torch.where(self._used[:, : logits.shape[-1]], weaker, logits)
        tokens = logits.argmax(-1)
        if not self._is_greedy.all():
            sampled = self._sample(logits, self._noise[:, step, None])
            tokens = torch.where(self._is_greedy, tokens, sampled)
        if self._used is not None:
            self._used[torch.arange(len(tokens)), tokens] = True
        return tokens

    def _sample(self, logits: Tensor, noise: Tensor) -> Tensor:
        """Return token ids (N,) by inverting the truncated cumulative distribution."""
        # 1. Temperature. The maximum is subtracted before the division: it stays 0 however
        # small the temperature, and nothing overflows. Greedy rows divide by 1, not by 0.
        values, ids = logits.topk(min(self._max_top_k, logits.shape[-1]))
        values = values.double()
        values = (values - values[:, :1]) / self._temperature.where(self._temperature > 0, 1.0)
        # 2. Top-k of the row itself: `topk` above took the largest k of the batch.
        values = values.masked_fill(torch.arange(values.shape[-1]) >= self._top_k, -torch.inf)
        # 3. Top-p keeps a token while the mass before it is below p, so at least one stays.
        probabilities = values.softmax(-1)
        cumulative = probabilities.cumsum(-1)
        retained = (cumulative - probabilities) < self._top_p
        mass = (probabilities * retained).sum(-1, keepdim=True)
        # 4. The index is bounded: rounding may leave `cumulative` below noise * mass throughout,
        # and a token whose probability underflowed to 0 must not be chosen.
        last = (retained & (probabilities > 0)).sum(-1, keepdim=True) - 1
        index = (cumulative <= noise * mass).sum(-1, keepdim=True).minimum(last)
        return ids.gather(1, index)[:, 0]


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def continuations(
    network: "Transformer | Pretrained",
    prompts: Sequence[Sequence[int]],
    token_sampler: TokenSampler,
    *,
    context_length: int,
) -> Iterator[list[int]]:
    """Yield the next id of each of the N rows, step by step, without end.

    Prompts are padded on the left, and no other token attends to padding.
    """
    device = next(network.parameters()).device
    tokens, valid = (tensor.to(device) for tensor in pad_left(prompts))
    positions = (valid.cumsum(1) - 1).clamp(min=0)
    # Padding attends to itself: a softmax over nothing would be NaN and spread.
    diagonal = torch.eye(tokens.shape[1], dtype=torch.bool, device=device)
    mask = (valid[:, None, None, :] & torch.ones_like(diagonal).tril()) | diagonal
    cache = network.new_cache()
    for step in count():
        logits = network(tokens, positions=positions, mask=mask, cache=cache, last_only=True)
        sampled = token_sampler.sample(logits[:, -1].float().cpu(), step)
        yield sampled.tolist()
        # Finished rows keep generating and their output is ignored. Their positions stop at
        # the context's end, for a network may have no embedding beyond it.
        positions = (positions[:, -1:] + 1).clamp(max=context_length - 1)
        # From the second step on the cache holds all earlier tokens: only the new one is sent.
        tokens = sampled[:, None].to(device)
        valid = functional.pad(valid, (0, 1), value=True)
        mask = valid[:, None, None, :]


def pad_left(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return ids (N, T) int64 padded on the left, and (N, T) bool, false at padding."""
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    valid = torch.zeros(len(rows), longest, dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, longest - len(row) :] = torch.tensor(row)
        valid[index, longest - len(row) :] = True
    return ids, valid


class Detokenizer:
    """The text of one row's ids, decoded in whole characters as they are generated.

    It ends at the end token, after `max_tokens`, or before a stop string. Characters that may
    begin a stop string are held back until that is decided.
    """

    def __init__(
        self,
        vocabulary: "Vocabulary",
        prompt: Sequence[int],
        *,
        max_tokens: int,
        stop: Sequence[str] = (),
    ) -> None:
        self._vocabulary, self._num_remaining, self._stop = vocabulary, max_tokens, list(stop)
        # Some tokenizers drop a leading space unless they see the token before it, so the
        # prompt's ids are decoded too: ids[start:decoded] is that context, its text known.
        self._ids, self._start, self._num_decoded = list(prompt), 0, len(prompt)
        self._held_back = ""
        self.text = ""
        self.ended = max_tokens == 0

    def append(self, token: int) -> str:
        """Return the text that the next id completes: often "", and "" after the end."""
        if self.ended:
            return ""
        self._num_remaining -= 1
        self.ended = token == self._vocabulary.end or self._num_remaining == 0
        if token != self._vocabulary.end:
            self._ids += self._vocabulary.for_display(token)
            self._held_back += self._decode()
        # The earliest stop string wins, whichever of several it is.
        indices = [at for stop in self._stop if (at := self._held_back.find(stop)) >= 0]
        if indices:
            self.ended, self._held_back = True, self._held_back[: min(indices)]
        num_held = 0 if self.ended else max(map(self._overlap, self._stop), default=0)
        piece, self._held_back = _split_end(self._held_back, num_held)
        self.text += piece
        return piece

    def _decode(self) -> str:
        """Return the text that the newest ids add, or "" within a character."""
        decode = self._vocabulary.tokenizer.decode
        before = decode(self._ids[self._start : self._num_decoded])
        text = decode(self._ids[self._start :])
        # U+FFFD at the end: the bytes of the last character are not all there yet.
        if text.endswith("\ufffd") or len(text) <= len(before):
            return ""
        self._start, self._num_decoded = self._num_decoded, len(self._ids)
        return text[len(before) :]

    def _overlap(self, stop: str) -> int:
        """Return the length of the longest held-back suffix that begins the stop string."""
        longest = min(len(stop) - 1, len(self._held_back))
        return next((n for n in range(longest, 0, -1) if self._held_back.endswith(stop[:n])), 0)


def _split_end(text: str, num_last: int) -> tuple[str, str]:
    return text[: len(text) - num_last], text[len(text) - num_last :]
