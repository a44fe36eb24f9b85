"""Texts and small GPT models that the tests of that family share."""

import torch

from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.modalities.text.model import TextData
from aigc_ops.models.gpt import Gpt, GptConfig
from tests.conftest import noise_for

QUESTIONS = ["What is AI?", "Who are you?", "你好", "Tell me a joke, will you?", "你几岁?", "Hi"]
ANSWERS = ["A branch of science.", "A machine.", "你好!", "No.", "我还年轻。", "Hello there 😀"]
DIALOGUE = TextData(ANSWERS, QUESTIONS)
DOCUMENTS = TextData(["One two three four five six seven.", "一二三四五六七八九十。", "x" * 90, ""])
SMALL = {"num_layers": 2, "num_heads": 2, "width": 16, "context_length": 48, "vocab_size": 300}


def small_model(data: TextData = DIALOGUE, **settings: object) -> Gpt:
    torch.manual_seed(0)
    model = Gpt.from_data(GptConfig(**{**SMALL, **settings}), data)
    for parameter in model.parameters():  # far from uniform, so that mistakes show
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    return model.eval()


def train(model: Gpt, data: TextData, *, steps: int) -> list[float]:
    model.train()
    examples, optimizer = model.examples(data), model.optimizer("network")
    losses = []
    for _ in range(steps):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ((part, loss, *_),) = model.losses(examples, noise_for(examples))
        assert part == "network"
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


def next_log_probabilities(model: Gpt, ids: list[int]) -> torch.Tensor:
    """(T, V) of the id after each id, by the plainest possible pass."""
    with torch.no_grad():
        logits = model.network(torch.tensor([ids]), positions=torch.arange(len(ids))[None])
    return logits[0].double().log_softmax(-1)


def requests_of_unlike_lengths() -> list[SampleRequest]:
    prompts = [None, "Hi", "你好", "What is AI?", "", "Tell me a joke, will you?", "x", "Who?"]
    return [SampleRequest(seed, {"prompt": prompt}) for seed, prompt in enumerate(prompts)]
