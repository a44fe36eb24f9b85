"""Request fields of texts: a prompt or a conversation, and stop strings."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from aigc_ops.core.errors import ModelError
from aigc_ops.interfaces.model import Generative
from aigc_ops.interfaces.request import Message, Role, SampleRequest
from aigc_ops.interfaces.sampling import CallFields, RequestFields

MAX_PROMPT_CHARACTERS = 10_000
NUM_DEFAULT_PROMPTS = 8


class Turn(BaseModel):
    """A turn of a conversation."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    role: Role
    content: str = Field(max_length=MAX_PROMPT_CHARACTERS)


class PromptFields(CallFields):
    """The prompt or conversation to answer, and the stop strings."""

    prompt: str | None = Field(
        default=None, max_length=MAX_PROMPT_CHARACTERS, description="Text to answer or continue."
    )
    messages: list[Turn] = Field(
        default=[],
        max_length=1000,
        description="Conversation to answer instead of a prompt; its last turn is the user's.",
    )
    stop: list[str] = Field(
        default=[], max_length=16, description="Strings that end a text; the text excludes them."
    )

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if self.messages and self.prompt is not None:
            raise ValueError("give messages or a prompt, not both")
        if self.messages and self.messages[-1].role != "user":
            raise ValueError("the last message is not the user's; end with the user's message")
        return self


class TextRequests(RequestFields):
    """Prompt, earlier conversation and stop strings of a text."""

    fields = PromptFields
    columns = {"prompt": "string", "history": "string", "stop": "string"}  # noqa: RUF012
    echoed = ("prompt",)
    takes_prompts = True

    def arguments(self, call: BaseModel) -> dict[str, Any]:
        assert isinstance(call, PromptFields), type(call)
        messages = [Message(turn.role, turn.content) for turn in call.messages]
        # The last user turn becomes the prompt; only the turns before it are the history.
        prompt = messages.pop().text if messages else call.prompt
        return {"prompt": prompt, "history": messages, "stop": call.stop}

    def call(self, request: SampleRequest) -> dict[str, Any]:
        fields: dict[str, Any] = {"prompt": request.prompt, "stop": list(request.stop)}
        if request.history:
            # The inverse of `arguments`: prompt and messages exclude each other in a call.
            turns = [*request.history, Message("user", fields.pop("prompt"))]
            fields["messages"] = [{"role": role, "content": text} for role, text in turns]
        return fields

    def record(self, request: SampleRequest) -> dict[str, Any]:
        # Records of texts carry a null label since before modalities had their own fields.
        return {"label": None, "prompt": request.prompt}

    def from_row(
        self,
        model: Generative[Any],  # noqa: ARG002
        index: int,
        row: Mapping[str, Any],
    ) -> dict[str, Any]:
        return {
            "prompt": row.get("prompt"),
            "history": _messages(index, row.get("history")),
            "stop": _stop_strings(index, row.get("stop")),
        }

    def default_prompts(self, heldout: Any) -> Sequence[str]:
        return (heldout.prompts or ())[:NUM_DEFAULT_PROMPTS]


def _messages(index: int, content: Any) -> tuple[Message, ...]:
    """Parse a row's JSON conversation; raise ModelError if it is not one."""
    if content is None:
        return ()
    messages = _parsed(content)
    try:
        history = [(turn["role"], turn["content"]) for turn in messages]
    except (TypeError, KeyError):
        # No valid role, so that the check below reports every wrong structure alike.
        history = [(None, None)]
    if any(role not in get_args(Role) or not isinstance(text, str) for role, text in history):
        raise ModelError(
            f"row {index} has history {content!r}; give a JSON list of objects with role "
            f"({', '.join(get_args(Role))}) and content"
        )
    return tuple(Message(role, text) for role, text in history)


def _stop_strings(index: int, content: Any) -> tuple[str, ...]:
    """Parse a row's JSON list of strings; raise ModelError if it is not one."""
    values = [] if content is None else _parsed(content)
    if not isinstance(values, list) or any(not isinstance(text, str) for text in values):
        raise ModelError(f'row {index} has stop {content!r}; give a JSON list, such as ["\\n"]')
    return tuple(values)


def _parsed(content: Any) -> Any:
    try:
        return json.loads(content)
    except (TypeError, ValueError):
        return None
