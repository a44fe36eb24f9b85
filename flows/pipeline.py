"""The chain and its gates, from data to Bento."""

from typing import Any

from prefect import get_run_logger

from aigc_ops import chain, records
from aigc_ops.artifacts import RunResult
from aigc_ops.config import RunConfig
from aigc_ops.data import pin_hint
from aigc_ops.data.fingerprint import quick_digest
from aigc_ops.home import exclusive
from aigc_ops.references import references
from flows import showing, stages
from flows.process import prepare
from flows.promotion import ask_for_review

Config = RunConfig[Any]


def run_chain(config: Config, *, force: bool = False) -> RunResult:
    """Every stage in order; a stage that fails ends the run and the rest never starts."""
    dataset = chain.open_data(config)
    if hint := pin_hint(dataset):
        get_run_logger().warning(hint)
    report = stages.validate(config, dataset, force=force)
    checkpoint = stages.train(config, dataset, force=force)
    scores = stages.evaluate(config, dataset, checkpoint, force=force)
    version = stages.register(config, dataset, checkpoint, scores)
    verdict = stages.promote(config, dataset, version)
    ask_for_review(verdict)
    bento = stages.package(config, verdict)
    return RunResult(
        name=config.name,
        dataset=dataset,
        report=report,
        checkpoint=checkpoint,
        scores=scores,
        version=version,
        verdict=verdict,
        bento=bento,
    )


def run_if_changed(config: Config, *, force: bool = False) -> RunResult:
    """The chain's result; an earlier one when neither config, data nor code has changed.

    Runs on one home queue. `force` runs every stage anew, training from its first step.
    """
    prepare()
    log = get_run_logger()
    with exclusive(lambda holder: log.warning("waiting for %s, which holds this home", holder)):
        digest = chain.config_digest(config)
        if not force and (earlier := records.recall(digest)):
            log.info("nothing has changed since %s was made", earlier.version.uri)
            showing.show(earlier)
            return earlier
        data_digest = quick_digest(config.data.path)
        inputs = records.states(references(config).values())
        result = run_chain(config, force=force)
        records.keep(digest, chain.record_of(config, result, data_digest, inputs))
    return result
