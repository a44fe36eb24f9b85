"""The chain of all stages as a flow's body, from data to Bento."""

from typing import Any

from prefect import get_run_logger

from aigc_ops.core.artifacts import RunResult
from aigc_ops.core.input_paths import collect_inputs
from aigc_ops.core.state_dir import lock_state_dir
from aigc_ops.data import pin_hint
from aigc_ops.formats.stat_digest import quick_digest
from aigc_ops.interfaces.reading import selection_lines
from aigc_ops.pipeline import chain, run_cache
from aigc_ops.pipeline.needs import require_stages
from aigc_ops.pipeline.run_config import RunConfig
from flows import stages, ui_artifacts
from flows.promotion import ask_for_review
from flows.runtime.process import prepare

Config = RunConfig[Any]


def run_chain(config: Config, *, force: bool = False) -> RunResult:
    """Run every stage in order; an error in one ends the run."""
    # Not a task: it only checks files and their pin, and every stage needs its result.
    dataset = chain.open_data(config)
    lines = selection_lines(dataset.dropped, dataset.noted)
    for line in filter(None, [pin_hint(dataset), *lines]):
        get_run_logger().warning(line)
    require_stages(config, dataset)
    report = stages.validate_task(config, dataset, force)
    checkpoint = stages.train_task(config, dataset, force)
    scores = stages.evaluate_task(config, dataset, checkpoint, force)
    version = stages.register_task(config, dataset, checkpoint, scores)
    verdict = stages.promote_task(config, dataset, version)
    # Starts a separate run for the review, so that this one need not wait for a person.
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
    """Run the chain, or return an earlier result if config, data and code are unchanged.

    Waits for the lock of the state directory. `force` runs every stage again, training from its
    first step.
    """
    prepare()
    log = get_run_logger()

    def waiting(holder: str) -> None:
        log.warning("waiting for %s, which holds the state directory", holder)

    with lock_state_dir(waiting):
        # 1. Look for an earlier result under the lock: a run that has just ended may be the same.
        digest = chain.config_digest(config)
        if not force and (earlier := run_cache.load_if_valid(digest)):
            log.info("nothing has changed since %s was made", earlier.version.uri)
            ui_artifacts.show(earlier)
            return earlier
        # 2. The state of data and inputs before the run, so that a later change is noticed.
        data_digest = quick_digest(config.data.path)
        inputs = run_cache.input_digests(collect_inputs(config).values())
        result = run_chain(config, force=force)
        # 3. Last: only a run that has completed every stage is recorded.
        run_cache.save(digest, chain.record_of(config, result, data_digest, inputs))
    return result
