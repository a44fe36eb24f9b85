"""Scores and comparisons of models of pulses."""

import torch

from aigc_ops.core.artifacts import Score
from aigc_ops.interfaces.evaluation import Evaluation, EvaluationHooks, Paired
from aigc_ops.interfaces.media import Findings, Section
from aigc_ops.sampling import sampler
from pulses.samples import PulseCodec


class PulseEvaluation(EvaluationHooks):
    """The distance of mean pulses, with a jackknife over samples."""

    growing = "num_pulses"

    def _samples(self, model, context):
        requests = sampler.requests(model, context.section.num_pulses, seed=context.seed)
        return requests, sampler.generate(model, requests)

    def _distances(self, samples, context):
        """Return the distance of the mean, and the jackknife distances without each sample."""
        mean, num = context.read("train").pulses.mean(0), len(samples)
        total = samples.sum(0)
        without = ((total - samples) / (num - 1) - mean).square().mean(1)
        return float((total / num - mean).square().mean()), without.double()

    def evaluate(self, candidate, context):
        requests, samples = self._samples(candidate.model, context)
        value, without = self._distances(samples, context)
        reach = 2 * float(without.std()) * (len(samples) - 1) / len(samples) ** 0.5
        contract = {
            "n": len(samples),
            "dataset": context.ref.content_digest,
            "seed": context.seed,
            "version": self.version,
        }
        train = context.read("train").pulses
        copies = float((samples[:, None] == train[None]).all(2).any(1).float().mean())
        loudness = float(samples.abs().mean())
        preview = PulseCodec().preview(samples[:8], requests[:8])
        return Evaluation(
            primary="mean_distance",
            values={
                "mean_distance": _score(value, reach, contract),
                "loudness": _score(loudness, 0.0, contract),
                "copies_in_levels": _score(copies, 0.0, contract),
            },
            preview=preview,
            findings=Findings(sections=[Section("Samples", "", [("", preview)])]),
        )

    def compare(self, candidate, champion, context):
        sides = [self._distances(self._samples(s.model, context)[1], context)
                 for s in (candidate, champion)]  # fmt: skip
        num = len(sides[0][1])
        apart = sides[0][1] - sides[1][1]
        error = float(torch.sqrt((num - 1) / num * (apart - apart.mean()).square().sum()))
        return Paired("mean_distance", sides[0][0], sides[1][0], error, num - 1, num)

    def side_by_side(self, models, context):
        items = []
        for name, each in models:
            requests, samples = self._samples(each.model, context)
            items.append((name, PulseCodec().preview(samples[:4], requests[:4])))
        return [Section("Samples from the same seeds", "", items)]


def _score(value, reach, contract):
    return Score(value=value, low=value - reach, high=value + reach, contract=contract)
