"""The chain and its gates, from data to Bento."""

from typing import Any

from prefect import get_run_logger

from aigc_ops.core.artifacts import RunResult
from aigc_ops.core.input_paths import references
from aigc_ops.core.state_dir import exclusive
from aigc_ops.data import pin_hint
from aigc_ops.formats.stat_digest import quick_digest
from aigc_ops.pipeline import chain, run_cache
from aigc_ops.pipeline.run_config import RunConfig
from flows import stages, ui_artifacts
from flows.promotion import ask_for_review
from flows.runtime.process import prepare

Config = RunConfig[Any]


def run_chain(config: Config, *, force: bool = False) -> RunResult:
    """Every stage in order; a stage that fails ends the run and the rest never starts."""
    dataset = chain.open_data(config)
    if hint := pin_hint(dataset):
        get_run_logger().warning(hint)
    report = stages.validate_task(config, dataset, force)
    checkpoint = stages.train_task(config, dataset, force)
    scores = stages.evaluate_task(config, dataset, checkpoint, force)
    version = stages.register_task(config, dataset, checkpoint, scores)
    verdict = stages.promote_task(config, dataset, version)
    ask_for_review(verdict)
    bento = stages.package_if_champion(config, verdict)
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
        if not force and (earlier := run_cache.recall(digest)):
            log.info("nothing has changed since %s was made", earlier.version.uri)
            ui_artifacts.show(earlier)
            return earlier
        data_digest = quick_digest(config.data.path)
        inputs = run_cache.states(references(config).values())
        result = run_chain(config, force=force)
        run_cache.keep(digest, chain.record_of(config, result, data_digest, inputs))
    return result
