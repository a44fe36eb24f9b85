"""Chat templates of pretrained models."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aigc_ops.core.errors import ModelError
from aigc_ops.interfaces.request import Message

# Stands for a message while the template is rendered; NUL is not in any template's own text.
_PLACEHOLDER = re.compile("\x00(\\d+)\x00")


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja template in the form of transformers' tokenizers."""

    source: str
    bos_token: str = ""
    eos_token: str = ""

    def render(
        self, messages: Sequence[Message], *, answered: bool
    ) -> list[tuple[str, int | None]]:
        """Return the rendered conversation as pieces (text, index of the message), in order.

        The template's own text has the index None. Unless `answered`, the conversation ends
        where the assistant's next answer begins. Raises ModelError when the template refuses
        the conversation.
        """
        # Messages are rendered as placeholders and put in afterwards, as pieces of their own:
        # special tokens that a user typed are then encoded as plain text.
        # transformers' own sandboxed renderer, with the functions that templates may call.
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        conversation = [
            {"role": message.role, "content": f"\0{index}\0"}
            for index, message in enumerate(messages)
        ]
        try:
            rendered: Any = render_jinja_template(
                conversations=[conversation],
                chat_template=self.source,
                add_generation_prompt=not answered,
                bos_token=self.bos_token,
                eos_token=self.eos_token,
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise ModelError(f"the model's chat template refuses the messages: {error}") from error
        # transformers returns (conversations, spans). Splitting at the pattern's group yields
        # template text and message index in turns.
        pieces = _PLACEHOLDER.split(rendered[0][0])
        return [
            (messages[int(piece)].text, int(piece)) if number % 2 else (piece, None)
            for number, piece in enumerate(pieces)
            if piece
        ]

    def after_answer(self) -> str:
        """Return the template's text after an answer, such as its end token."""
        turns = [Message("user", "?"), Message("assistant", "!")]
        text, index = self.render(turns, answered=True)[-1]
        return text if index is None else ""
