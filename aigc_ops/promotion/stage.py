"""The promote stage: evaluates candidate against champion and applies the gate's outcome."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aigc_ops.core.artifacts import (
    Checkpoint,
    DatasetRef,
    ModelVersion,
    Scores,
    Verdict,
    json_digest,
)
from aigc_ops.core.errors import (
    AigcOpsError,
    CheckpointError,
    EvaluationError,
    ModelError,
    RegistryError,
)
from aigc_ops.core.state_dir import home
from aigc_ops.core.tracking import SilentTracker, progress_of
from aigc_ops.data import DataConfig
from aigc_ops.evaluation import EvaluationConfig, evaluate
from aigc_ops.evaluation.canaries import audit_section
from aigc_ops.evaluation.paired import compare, compare_costs, side_by_side
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.media import Section
from aigc_ops.promotion.config import PromotionConfig
from aigc_ops.promotion.gate import (
    Costs,
    Ruling,
    guards_of,
    judge,
    num_looks,
    unequal,
    with_seed_noise,
)
from aigc_ops.promotion.packet import write_packet
from aigc_ops.promotion.seed_noise import seed_noise
from aigc_ops.promotion.validity import (
    canary_ruling,
    first_version_ruling,
    invalid_reason,
    memorisation_reason,
    with_unexamined,
)
from aigc_ops.registry import aliases as registry
from aigc_ops.registry import evidence as store
from aigc_ops.registry.aliases import AUTOMATIC, Decision
from aigc_ops.registry.evidence import Evidence
from aigc_ops.registry.resolution import fetch
from aigc_ops.registry.trainings import Training, trainings_like
from aigc_ops.registry.versions import champion as champion_of


@dataclass(frozen=True)
class PromotionContext:
    """Data, evaluation and promotion settings of the run that compares two versions."""

    dataset: DatasetRef
    data: DataConfig
    evaluation: EvaluationConfig
    promotion: PromotionConfig
    seed: int

    @property
    def cache(self) -> Path:
        return home() / "cache" / "reference"

    def digest(self, scores: Scores | None) -> str:
        """Return the digest of the settings and scores that a comparison is based on."""
        # Earlier packets carry digests of this record: another key or another form of a value would
        # make all of them stale, and every pending review with them.
        return json_digest(
            {
                "promotion": self.promotion.stable_dump(),
                "evaluation": self.evaluation.stable_dump(),
                "dataset": self.dataset.content_digest,
                "scores": scores.digest if scores else None,
            }
        )


def promote(
    version: ModelVersion, context: PromotionContext, *, flow_run: str | None = None
) -> Verdict:
    """Compare the version with the champion and carry out the gate's outcome.

    With `approval: automatic` a version that passes the gate becomes champion. Otherwise it becomes
    challenger and waits for a person, as does an undecided version, and one that was rolled back
    from earlier. One that the gate holds back is challenger without waiting if it is not worse
    than the champion by the margin, and has no alias otherwise. The same
    evidence gives the same verdict, until a person rejects the version or rolls back from it.
    Raises RegistryError or CheckpointError for a version that is not ready or is damaged.
    """
    # 1. Before anything is read: a decision that was interrupted is completed, and aliases that
    #    were moved outside aigc-ops are reported or restored.
    moved = registry.reconcile(version.name, context.promotion.guard)
    champion = champion_of(version.name)
    if champion == version:
        # Only an alias that was moved outside aigc-ops can name a version with canaries.
        registry.require_servable(version)
        return Verdict(
            model=version,
            promoted=True,
            alias="champion",
            champion=version,
            reasons=("it is the champion already", *moved),
        )
    # 2. Evaluate, or load the packet that was made of the same evidence.
    candidate = store.evidence_of(version)
    ruling, digest, folder = _load_or_evaluate(candidate, champion, context)
    decision = Decision(
        who=AUTOMATIC,
        reason="; ".join(ruling.reasons)[:500],
        gate=ruling.outcome,
        packet_digest=digest,
        flow_run=flow_run,
    )
    # 3. A person's decision has precedence: retraining that repeats must not undo a rejection, nor
    #    bring back a version that failed in production.
    rejection = registry.find_rejection(version, digest)
    rollback = registry.find_rollback(version)
    is_automatic = context.promotion.approval == "automatic"
    promoted = ruling.outcome == "promote" and is_automatic and not (rejection or rollback)
    # `champion` is the one of the comparison: `promote` raises StaleDecision if another process has
    # replaced it since.
    if promoted:
        registry.promote(version, decision, champion=champion.version if champion else None)
    waiting = not (promoted or rejection or ruling.outcome == "keep")
    is_challenger = waiting or (ruling.not_worse and not (promoted or rejection))
    if is_challenger:
        registry.challenge(version, decision)
    elif not (promoted or rejection):
        registry.hold(version, decision)
    reasons = (*ruling.reasons, *moved)
    if rejection:
        reasons = (registry.rejection_text(rejection), *reasons)
    elif rollback:
        text = f"{rollback.who} rolled back from it ({rollback.reason}): a person decides"
        reasons = (text, *reasons)
    return Verdict(
        model=version,
        promoted=promoted,
        alias="champion" if promoted else "challenger" if is_challenger else None,
        champion=version if promoted else champion,
        reasons=reasons,
        gate=ruling.outcome,
        waiting=waiting,
        packet_digest=digest,
        packet_uri=str(folder / store.PAGE),
    )


def _load_or_evaluate(
    candidate: Evidence, champion: ModelVersion | None, context: PromotionContext
) -> tuple[Ruling, str, Path]:
    """Return the ruling, the packet's digest and its folder; cached for the same evidence."""
    # 1. A packet for the same champion, settings and scores already holds the ruling. A new one
    #    would have another digest, and make the review that a person is reading stale.
    basis: dict[str, Any] = {
        "champion": champion.version if champion else None,
        "settings": context.digest(candidate.scores),
    }
    if champion and context.promotion.better_than == "seed_noise":
        # Further trainings of the champion's config may decide what was undecided.
        trainings = _other_trainings(candidate, champion)
        basis["trainings"] = [training.version for training in trainings]
    known = store.basis_of(candidate.version)
    if known.items() >= basis.items():
        try:
            packet = store.read_packet(candidate.version)
            ruling = Ruling.model_validate(packet.content["ruling"])
            return ruling, packet.packet_digest, Path(packet.folder)
        except RegistryError:
            pass  # the packet is missing or was changed: make another one
    # 2. Evaluate.
    ruling, candidate, rival = _decide(candidate, champion, context)
    if champion and ruling.outcome == "undecided" and ruling.num is None:
        basis["settings"] = ""  # never equal: a champion that failed to load is tried again
    ruling = with_unexamined(ruling, candidate.scores, context.promotion)
    # 3. Write and store the packet. `store_packet` sets the version's tags last, so an interrupted
    #    upload leaves the previous packet in force.
    with tempfile.TemporaryDirectory(prefix=".packet-", dir=home()) as name:
        folder = Path(name) / "packet"
        sides = [evidence for evidence in (candidate, rival) if evidence]
        roles = ("version", "champion")
        names = [f"{role} {side.version.version}" for role, side in zip(roles, sides, strict=False)]
        write_packet(
            folder,
            candidate,
            rival,
            ruling,
            [*_sample_sections(sides, names, context), *audit_section(candidate.scores)],
            [(n, store.curves_of(side.version)) for n, side in zip(names, sides, strict=True)],
            context.promotion,
        )
        digest = store.store_packet(candidate.version, folder, basis)
        cached = home() / "packets" / digest
        cached.parent.mkdir(exist_ok=True)
        if not cached.exists():
            folder.rename(cached)
    return ruling, digest, cached


def _sample_sections(
    sides: Sequence[Evidence], names: Sequence[str], context: PromotionContext
) -> list[Section]:
    """Return sections with samples of both versions, without one that fails to generate."""
    named = [(name, fetch(side.version)) for name, side in zip(names, sides, strict=True)]
    # The candidate is first: without the champion its samples are still shown.
    for num in (len(named), 1):
        try:
            return side_by_side(
                named[:num],
                context.dataset,
                context.data,
                context.evaluation,
                seed=context.seed,
                cache=context.cache,
            )
        except AigcOpsError:
            continue  # a model that no longer loads, or does not fit the data
    return []


def _decide(
    candidate: Evidence, champion: ModelVersion | None, context: PromotionContext
) -> tuple[Ruling, Evidence, Evidence | None]:
    """Return the gate's ruling, and both records with the scores of the last interim analysis."""
    invalid = canary_ruling(candidate.provenance, candidate.scores)
    invalid = invalid or _validity_ruling(candidate.scores, context)
    if champion is None:
        if invalid:
            return invalid, candidate, None
        assert candidate.scores is not None, candidate.version.uri
        name = candidate.version.name
        return first_version_ruling(candidate.scores, name, context.promotion), candidate, None
    rival = None
    try:
        rival = store.evidence_of(champion)
        if invalid:
            return invalid, candidate, rival
        assert candidate.scores is not None, candidate.version.uri
        return _sequential_test(candidate, candidate.scores, rival, context)
    # A champion that is damaged, deleted or trained for other data must not block its replacement:
    # the ruling is `undecided`, so that a person may promote the version.
    except (CheckpointError, EvaluationError, ModelError, RegistryError) as error:
        reason = f"the champion, version {champion.version}, cannot be evaluated here: {error}"
        return Ruling(outcome="undecided", reasons=(reason,)), candidate, rival


def _validity_ruling(scores: Scores | None, context: PromotionContext) -> Ruling | None:
    """Return the rejection of scores that are invalid or show memorisation, else None."""
    why = invalid_reason(scores) or memorisation_reason(scores, context.promotion)
    return Ruling(outcome="keep", reasons=(f"not valid: {why}",)) if why else None


def _sequential_test(
    candidate: Evidence, scores: Scores, rival: Evidence, context: PromotionContext
) -> tuple[Ruling, Evidence, Evidence]:
    """Compare both, doubling the samples until the gate decides or the maximum is reached."""
    checkpoint, champion = fetch(candidate.version), fetch(rival.version)
    rival_scores = rival.scores
    modality = context.dataset.modality
    growing = find_modality(modality).evaluation.growing
    # 1. The plan: it starts with the number of samples of the candidate's scores. A modality whose
    #    comparison uses all held-out data has nothing to double, and a single analysis.
    first = scores.values[scores.primary].contract.get("n")
    looks = num_looks(int(str(first)), context.promotion) if growing else 1
    limit = context.promotion.max_slowdown
    costs = Costs(
        sampling=compare_costs(checkpoint, champion, context.evaluation, limit=limit),
        growth=candidate.num_bytes / max(1, rival.num_bytes),
    )
    names = (f"version {candidate.version.version}", f"version {rival.version.version}")
    for look in range(1, looks + 1):
        evaluation = context.evaluation
        if growing:
            num = int(str(first)) * 2 ** (look - 1)
            evaluation = evaluation.with_section(modality, **{growing: num})
        with progress_of(f"look {look} of {looks}"):
            # 2. The paired comparison: same seeds and requests, so what both share cancels.
            paired = compare(
                checkpoint,
                champion,
                context.dataset,
                context.data,
                evaluation,
                seed=context.seed,
                cache=context.cache,
                names=names,
            )
            # 3. The scores for the guards. Stored ones serve while their evaluation conditions are
            #    equal. The champion's may be older than a guard or have fewer samples. The
            #    candidate's may be of other conditions than this run's, which only the second test
            #    shows.
            is_fresh = look > 1 or paired.metric != scores.primary
            if is_fresh:
                scores = _evaluate_quietly(checkpoint, evaluation, context, name=names[0])
            if rival_scores is None or not _is_comparable(scores, rival_scores):
                rival_scores = _evaluate_quietly(champion, evaluation, context, name=names[1])
                if not (is_fresh or _is_comparable(scores, rival_scores)):
                    scores = _evaluate_quietly(checkpoint, evaluation, context, name=names[0])
        guards = guards_of(scores, rival_scores, costs, context.promotion)
        # 4. The ruling. Memorisation may become significant only with more samples.
        ruling = _validity_ruling(scores, context) or judge(
            paired, guards, context.promotion, look=look, looks=looks
        )
        if ruling.outcome != "undecided":
            break
    # 5. How much of the difference another seed of the champion's config could explain.
    if ruling.num is not None:
        level = 1 - context.promotion.false_promotion_rate
        trainings = _other_trainings(candidate, rival.version)
        noise = seed_noise(trainings, rival.version.version, paired, level=level)
        ruling = with_seed_noise(ruling, noise, context.promotion)
    return (
        ruling,
        candidate.model_copy(update={"scores": scores}),
        rival.model_copy(update={"scores": rival_scores}),
    )


def _other_trainings(candidate: Evidence, champion: ModelVersion) -> tuple[Training, ...]:
    """Return the trainings of the champion's config, without the candidate if it is one."""
    found = trainings_like(champion)
    own = {each.seed for each in found if each.version == candidate.version.version}
    return tuple(each for each in found if each.seed not in own)


def _is_comparable(scores: Scores, reference: Scores) -> bool:
    """Return whether the gate's scores of both have equal evaluation conditions."""
    if invalid_reason(reference) or reference.primary != scores.primary:
        return False
    guards = find_modality(scores.modality).guards
    return not any(unequal(name, scores, reference) for name in (scores.primary, *guards))


def _evaluate_quietly(
    checkpoint: Checkpoint, evaluation: EvaluationConfig, context: PromotionContext, *, name: str
) -> Scores:
    """Return scores under this run's evaluation conditions; nothing is logged to MLflow.

    `name` is the model's name in progress bars.
    """
    # One folder per model and config: no evaluation overwrites the report of another one.
    digest = json_digest([checkpoint.manifest_digest, evaluation.stable_dump()])
    with progress_of(name):
        return evaluate(
            checkpoint,
            context.dataset,
            context.data,
            evaluation,
            seed=context.seed,
            cache=context.cache,
            folder=home() / "evaluations" / "compared" / digest[:16],
            tracker=SilentTracker(),
        )
