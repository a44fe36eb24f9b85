"""Encode texts as files: one line per text in samples.txt, the exact text in its record."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aigc_ops.core.escaping import printable
from aigc_ops.interfaces.media import Media, Text
from aigc_ops.interfaces.model import Generative
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.interfaces.sampling import Metadata, SampleCodec

FILE = "samples.txt"
FULL_DIFFERENCE = 255  # texts are equal or not; the scale is that of pixel levels


class TextCodec(SampleCodec[list[str]]):
    """UTF-8 codec; a batch is a list of strings."""

    suffix = ".txt"
    is_numbered = False
    media_type = "text/plain; charset=utf-8"
    json_name, json_names = "text", "texts"
    column_type = "string"

    def join(self, batches: Sequence[list[str]]) -> list[str]:
        return [text for batch in batches for text in batch]

    def stack(self, samples: Sequence[str]) -> list[str]:
        return list(samples)

    def count(
        self,
        model: Generative[list[str]],
        requests: Sequence[SampleRequest],
        samples: list[str],
    ) -> int:
        """Return the number of tokens in the samples."""
        # Imported here, because listing or reading samples needs no torch.
        import torch

        from aigc_ops.modalities.text.model import TextData, TextModel

        assert isinstance(model, TextModel), type(model)
        prompts = [r.conditions["prompt"] for r in requests if "prompt" in r.conditions]
        # Tokens are counted by one scoring pass: a text does not show how it was tokenised, and
        # scoring is cheap beside sampling.
        data = TextData(samples, prompts if len(prompts) == len(samples) else None)
        with torch.inference_mode():
            _, num_tokens = model.log_likelihood(data)
        return int(num_tokens.sum())

    def amount(self, samples: list[str]) -> int:
        """Return the number of characters, because texts of two models differ in length."""
        return sum(map(len, samples))

    def encode(self, sample: str, metadata: Metadata | None = None) -> bytes:  # noqa: ARG002
        return sample.encode()

    def decode(self, content: bytes) -> str:
        return content.decode()

    def difference(self, content: bytes, sample: str) -> int:
        return 0 if content == sample.encode() else FULL_DIFFERENCE

    def json_value(self, content: bytes) -> str:
        return content.decode()

    def from_json_value(self, value: str) -> bytes:
        return value.encode()

    def column_value(self, sample: str) -> str:
        return sample

    def from_column_value(self, value: str) -> str:
        return value

    def preview(self, samples: list[str], requests: Sequence[SampleRequest]) -> Media:
        prompts = [request.conditions.get("prompt", "") for request in requests]
        pairs = zip(prompts, samples, strict=True)
        return Text("".join(f"{prompt} => {text}\n" for prompt, text in pairs))

    def write(
        self,
        samples: list[str],
        folder: Path,
        metadata: Callable[[int], Metadata | None],  # noqa: ARG002
    ) -> list[str]:
        lines = "".join(f"{_one_line(text)}\n" for text in samples)  # exact texts: `record`
        (folder / FILE).write_text(lines, encoding="utf-8", newline="")
        return [FILE] * len(samples)

    def record(self, sample: str) -> dict[str, Any]:
        return {"text": sample}

    def read(self, folder: Path, rows: Sequence[Mapping[str, Any]]) -> list[str]:  # noqa: ARG002
        return [row["text"] for row in rows]


def _one_line(text: str) -> str:
    """Return the text with backslashes and line ends escaped as in a Python literal."""
    return printable(text.replace("\\", "\\\\"))
