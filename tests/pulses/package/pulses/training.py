"""Samples and measurements during training."""

from aigc_ops.interfaces.training import TrainingHooks
from aigc_ops.sampling import sampler
from pulses.samples import PulseCodec


class PulseTraining(TrainingHooks):
    """A table of pulses, and their mean loudness."""

    def monitor(self, train):
        requests = []

        def measure(model):
            requests[:] = requests or sampler.requests(model, 16, seed=0)
            return {"samples/loudness": float(sampler.generate(model, requests).abs().mean())}

        return measure

    def preview(self, model, data):
        requests = sampler.requests(model, 4, seed=0)
        return PulseCodec().preview(sampler.generate(model, requests), requests)
