"""Samples and measurements during training."""

import torch

from aigc_ops.interfaces.training import TrainingHooks
from aigc_ops.sampling import sampler
from pulses.data import PulseData
from pulses.samples import PulseCodec


class PulseTraining(TrainingHooks):
    """A table of pulses, and their mean loudness."""

    def monitor(self, train):
        requests = []

        def measure(model):
            requests[:] = requests or sampler.requests(model, 16, seed=0)
            return {"samples/loudness": float(sampler.generate(model, requests).abs().mean())}

        return measure

    def example_data(self):
        pulses = torch.sin(torch.arange(32 * 16) / 3).reshape(32, 16)
        labels = torch.arange(32) % 2
        return {
            "two classes": PulseData(pulses, labels, ("rising", "falling")),
            "without labels": PulseData(pulses, None, ()),
        }

    def preview(self, model, data):
        requests = sampler.requests(model, 4, seed=0)
        return PulseCodec().preview(sampler.generate(model, requests), requests)
