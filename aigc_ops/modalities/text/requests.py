"""Conditions of texts: a prompt, the conversation before it, and stop strings."""

import json
from collections.abc import Sequence
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from aigc_ops.core.errors import ModelError
from aigc_ops.interfaces.conditions import Condition, SampleCondition, check_conditions
from aigc_ops.interfaces.request import Message, Role, SampleRequest, check_turns
from aigc_ops.interfaces.sampling import CallFields, RequestFields
from aigc_ops.modalities.text.codec import TextCodec

MAX_PROMPT_CHARACTERS = 10_000
NUM_DEFAULT_PROMPTS = 8


class History(Condition[tuple[Message, ...]]):
    """Conversation before the prompt, oldest turn first; in a column a JSON list of objects."""

    name = "history"
    column_type = "string"

    def to_json(self, value: tuple[Message, ...]) -> JsonValue:
        return [list(message) for message in value]

    def from_json(self, content: Any) -> tuple[Message, ...] | None:
        return tuple(Message(*turn) for turn in content) or None

    def from_column(self, content: Any) -> tuple[Message, ...] | None:
        try:
            turns = [(turn["role"], turn["content"]) for turn in _parsed(content)]
        except (TypeError, KeyError):
            # No valid role, so that the check below reports every wrong structure alike.
            turns = [(None, None)]
        if any(role not in get_args(Role) or not isinstance(text, str) for role, text in turns):
            raise ModelError(
                f"history is {content!r}; give a JSON list of objects with role "
                f"({', '.join(get_args(Role))}) and content"
            )
        return self.from_json(turns)


class StopStrings(Condition[tuple[str, ...]]):
    """Strings before whose first occurrence the text ends; in a column a JSON list."""

    name = "stop"
    column_type = "string"

    def to_json(self, value: tuple[str, ...]) -> JsonValue:
        return list(value)

    def from_json(self, content: Any) -> tuple[str, ...] | None:
        return tuple(content) or None

    def from_column(self, content: Any) -> tuple[str, ...] | None:
        values = _parsed(content)
        if not isinstance(values, list) or any(not isinstance(text, str) for text in values):
            raise ModelError(f'stop is {content!r}; give a JSON list, such as ["\\n"]')
        return self.from_json(values)


PROMPT: Condition[str] = SampleCondition(
    "prompt",
    TextCodec(),
    "Text to answer or continue.",
    max_characters=MAX_PROMPT_CHARACTERS,
    is_echoed=True,
)
PREFIX: Condition[str] = SampleCondition(
    "prefix",
    TextCodec(),
    "Beginning of the text itself; no chat template is applied.",
    max_characters=MAX_PROMPT_CHARACTERS,
)
HISTORY = History()
STOP = StopStrings()


def check_text_conditions(request: SampleRequest) -> None:
    """Raise ModelError for conditions that a text model cannot follow."""
    check_conditions(request, tuple(each.name for each in (PROMPT, PREFIX, HISTORY, STOP)))
    check_turns(history := HISTORY.of(request) or ())
    if history and not PROMPT.of(request):
        raise ModelError("the messages are answered already; give a prompt to follow them")
    if "" in (STOP.of(request) or ()):
        raise ModelError("a stop string is empty; give one or more characters, or none")


def prompt_conditions(prompts: Sequence[str]) -> list[dict[str, Any]]:
    """Return the conditions of one request per prompt."""
    return [{PROMPT.name: prompt} for prompt in prompts]


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

    conditions = (PROMPT, HISTORY, STOP)
    fields = PromptFields
    takes_prompts = True

    def from_call(self, call: BaseModel) -> dict[str, Any]:
        assert isinstance(call, PromptFields), type(call)
        turns = [(turn.role, turn.content) for turn in call.messages]
        # The last user turn becomes the prompt; only the turns before it are the history.
        prompt = turns.pop()[1] if turns else call.prompt
        return self.from_record({"prompt": prompt, "history": turns, "stop": call.stop})

    def to_call(self, request: SampleRequest) -> dict[str, Any]:
        fields: dict[str, Any] = {"prompt": PROMPT.of(request), "stop": STOP.of(request) or ()}
        if history := HISTORY.of(request):
            # The inverse of `from_call`: prompt and messages exclude each other in a call.
            turns = [*history, Message("user", fields.pop("prompt"))]
            fields["messages"] = [{"role": role, "content": text} for role, text in turns]
        return fields

    def to_record(self, request: SampleRequest) -> dict[str, Any]:
        record = super().to_record(request)
        # Records of texts carry a null label since before modalities had their own conditions.
        present = {name: value for name, value in record.items() if value is not None}
        return {"label": None, "prompt": None, **present}

    def default_prompts(self, heldout: Any) -> Sequence[str]:
        return (heldout.prompts or ())[:NUM_DEFAULT_PROMPTS]


def _parsed(content: Any) -> Any:
    try:
        return json.loads(content)
    except (TypeError, ValueError):
        return None
