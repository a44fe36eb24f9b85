"""Requests for samples, controls of a model, and checks of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from aigc_ops.core.errors import ModelError

if TYPE_CHECKING:
    import torch

Role = Literal["system", "user", "assistant"]


class Message(NamedTuple):
    """A turn of a conversation."""

    role: Role
    text: str


@dataclass(frozen=True)
class Control:
    """A numeric setting of a sample, besides its conditions."""

    low: float
    high: float
    description: str
    is_integer: bool = False

    @property
    def bounds(self) -> str:
        """Range of values as text."""
        return f"{self.low:g} to {self.high:g}{', a whole number' if self.is_integer else ''}"

    def accepts(self, value: float) -> bool:
        """Return True if the value is in range, and whole where it must be."""
        return self.low <= value <= self.high and not (self.is_integer and value != int(value))


@dataclass(frozen=True)
class SampleRequest:
    """A request for one sample; equal requests give equal samples, in any batch."""

    seed: int
    conditions: Mapping[str, Any] = field(default_factory=dict)
    """Inputs of the sample by name, such as `label` or `prompt`; None is dropped.

    `RequestFields.conditions` of the modality declares them.
    """
    controls: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        present = {name: value for name, value in self.conditions.items() if value is not None}
        object.__setattr__(self, "conditions", present)

    def generator(self) -> "torch.Generator":
        """Return a CPU generator seeded for this request alone."""
        import torch  # here, because rows of data hold messages and need no torch

        # On the CPU even for a model on a GPU: CUDA's generator gives other numbers, and a
        # generator shared by a batch would make a sample depend on its neighbours.
        return torch.Generator().manual_seed(self.seed)


def unseeded(request: SampleRequest) -> SampleRequest:
    """Return the request with seed 0, so that requests differing by seed alone are equal."""
    return replace(request, seed=0)


def check_controls(request: SampleRequest, controls: Mapping[str, Control]) -> None:
    """Raise ModelError for a control that the model lacks, or a value out of range."""
    for name, value in request.controls.items():
        if name not in controls:
            groups = group_equal_controls(controls)
            known = [f"{names} ({control.bounds})" for names, control in groups]
            choice = f"choose from {', '.join(known)}" if known else "this model has none"
            raise ModelError(f"{name!r} is not a control; {choice}")
        if not controls[name].accepts(value):
            raise ModelError(f"{name} is {value:g}; give {controls[name].bounds}")


def group_equal_controls(controls: Mapping[str, Control]) -> list[tuple[str, Control]]:
    """Return (names, control) per run of equal controls, such as `latent_1 … latent_16`."""
    # A VAE has one control per latent unit, which would fill a message or a model card.
    runs = []
    for control, items in groupby(controls.items(), key=itemgetter(1)):
        names = [name for name, _ in items]
        runs.append((f"{names[0]} … {names[-1]}" if len(names) > 2 else ", ".join(names), control))
    return runs


def check_turns(history: Sequence[Message]) -> None:
    """Raise ModelError unless user and assistant alternate, after optional system messages.

    A history ends with the assistant's turn, because the prompt is the user's next turn.
    """
    expected: Role = "user"
    for index, message in enumerate(history):
        is_leading = message.role == "system" and all(m.role == "system" for m in history[:index])
        if not is_leading and message.role != expected:
            raise ModelError(
                f"message {index + 1} has the role {message.role}, expected {expected}; "
                "system messages come first, then user and assistant alternate"
            )
        if not is_leading:
            expected = "assistant" if expected == "user" else "user"
    # The prompt is the user's next turn, so the history may not end with a user's turn.
    if expected == "assistant":
        raise ModelError("the last earlier message is the user's; add the assistant's answer to it")
