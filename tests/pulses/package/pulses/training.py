"""What is shown while a model of pulses trains."""

from aigc_ops.interfaces.training import TrainingHooks
from aigc_ops.sampling import sampler
from pulses.samples import PulseCodec


class PulseTraining(TrainingHooks):
    """A table of pulses, and how loud they are."""

    def monitor(self, train):
        requests = []

        def measure(model):
            requests[:] = requests or sampler.requests(model, 16, seed=0)
            return {"samples/loudness": float(sampler.draw(model, requests).abs().mean())}

        return measure

    def preview(self, model, data):
        requests = sampler.requests(model, 4, seed=0)
        return PulseCodec().preview(sampler.draw(model, requests), requests)
