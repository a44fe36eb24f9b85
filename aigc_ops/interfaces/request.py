"""What may be asked of a model: one sample, its controls, and what is refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Literal, NamedTuple

from aigc_ops.core.errors import ModelError

if TYPE_CHECKING:
    import torch

Role = Literal["system", "user", "assistant"]


class Message(NamedTuple):
    """One turn of a conversation."""

    role: Role
    text: str


@dataclass(frozen=True)
class Control:
    """Something that a sample can be asked for beside its label or prompt."""

    low: float
    high: float
    description: str
    is_integer: bool = False

    @property
    def bounds(self) -> str:
        """The values it takes, as people read them."""
        return f"{self.low:g} to {self.high:g}{', a whole number' if self.is_integer else ''}"

    def takes(self, value: float) -> bool:
        """Whether a sample can be asked for this value."""
        return self.low <= value <= self.high and not (self.is_integer and value != int(value))


@dataclass(frozen=True)
class SampleRequest:
    """One sample to draw; equal requests give equal samples, alone or in a batch."""

    seed: int
    label: int | None = None
    prompt: str | None = None
    controls: Mapping[str, float] = field(default_factory=dict)
    history: tuple[Message, ...] = ()
    """The conversation before the prompt, oldest turn first."""
    stop: tuple[str, ...] = ()
    """A text ends before the first of these that it would hold."""
    is_begun: bool = False
    """The prompt is the beginning of the text itself, in no frame of a prompt's own."""

    def generator(self) -> "torch.Generator":
        """A CPU generator of this request's own, so no neighbour changes its noise."""
        import torch  # which the data room, whose rows hold messages, does without

        return torch.Generator().manual_seed(self.seed)


def unseeded(request: SampleRequest) -> SampleRequest:
    """The request with the seed 0: what it asks for, whichever sample of that it is."""
    return replace(request, seed=0)


def check_label(request: SampleRequest, num_classes: int) -> None:
    """Raise ModelError unless the request's label (or none) suits a K-class image model."""
    if request.prompt is not None:
        raise ModelError("this model draws images and takes no prompt; give a label or nothing")
    if request.history or request.stop:
        raise ModelError("this model draws images; leave messages and stop out")
    if request.label is None and num_classes:
        raise ModelError(f"this model draws by class; give a label from 0 to {num_classes - 1}")
    if request.label is not None and not num_classes:
        raise ModelError("this model has no classes; leave the label out")
    if request.label is not None and not 0 <= request.label < num_classes:
        raise ModelError(f"label {request.label} is outside 0..{num_classes - 1}")


def check_controls(request: SampleRequest, controls: Mapping[str, Control]) -> None:
    """Raise ModelError unless the model has the request's controls and their values."""
    for name, value in request.controls.items():
        if name not in controls:
            known = [f"{names} ({control.bounds})" for names, control in joined(controls)]
            choice = f"choose from {', '.join(known)}" if known else "this model has none"
            raise ModelError(f"{name!r} is not a control; {choice}")
        if not controls[name].takes(value):
            raise ModelError(f"{name} is {value:g}; give {controls[name].bounds}")


def joined(controls: Mapping[str, Control]) -> list[tuple[str, Control]]:
    """Names and control of each run of equal ones, such as `latent_1 … latent_16`."""
    runs = []
    for control, items in groupby(controls.items(), key=itemgetter(1)):
        names = [name for name, _ in items]
        runs.append((f"{names[0]} … {names[-1]}" if len(names) > 2 else ", ".join(names), control))
    return runs


def check_turns(history: Sequence[Message]) -> None:
    """Raise ModelError unless user and assistant take turns, after system messages if any.

    A history ends with the assistant's turn, for the prompt is the user's next.
    """
    expected: Role = "user"
    for place, message in enumerate(history):
        is_opening = message.role == "system" and all(m.role == "system" for m in history[:place])
        if not is_opening and message.role != expected:
            raise ModelError(
                f"message {place + 1} is the {message.role}'s where the {expected}'s was expected; "
                "system messages come first, then user and assistant take turns"
            )
        if not is_opening:
            expected = "assistant" if expected == "user" else "user"
    if expected == "assistant":
        raise ModelError("the last of the earlier messages is the user's; its answer is missing")
