"""Chat templates: how a pretrained model was shown who says what."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aigc_ops.core.errors import ModelError
from aigc_ops.interfaces.request import Message

_PLACE = re.compile("\x00(\\d+)\x00")


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja template as transformers' tokenizers carry it."""

    source: str
    bos_token: str = ""
    eos_token: str = ""

    def render(
        self, messages: Sequence[Message], *, answered: bool
    ) -> list[tuple[str, int | None]]:
        """The conversation in pieces, (text, place of its message), in order.

        Unless `answered`, it ends where the assistant's next answer begins. A message stands
        in pieces of its own, so that no text of a person's is taken for a mark; the template's
        own text has no place. Raises ModelError when the template refuses the conversation.
        """
        # transformers' own sandboxed renderer, with the functions that templates may call.
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        shown = [
            {"role": message.role, "content": f"\0{place}\0"}
            for place, message in enumerate(messages)
        ]
        try:
            rendered: Any = render_jinja_template(
                conversations=[shown],
                chat_template=self.source,
                add_generation_prompt=not answered,
                bos_token=self.bos_token,
                eos_token=self.eos_token,
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise ModelError(f"the model's chat template refuses the messages: {error}") from error
        pieces = _PLACE.split(rendered[0][0])  # the first conversation of a pair with its spans
        return [
            (messages[int(piece)].text, int(piece)) if index % 2 else (piece, None)
            for index, piece in enumerate(pieces)
            if piece
        ]

    def after_answer(self) -> str:
        """What the template writes after an answer, which ends it."""
        turn = [Message("user", "?"), Message("assistant", "!")]
        text, place = self.render(turn, answered=True)[-1]
        return text if place is None else ""
