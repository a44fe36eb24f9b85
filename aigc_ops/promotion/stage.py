"""The promote stage: evidence is weighed, a packet made, and done what gate and config say."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
from aigc_ops.core.tracking import SilentTracker
from aigc_ops.data import DataConfig
from aigc_ops.evaluation import EvaluationConfig, evaluate
from aigc_ops.evaluation.paired import compare, sampling_time_ratio, side_by_side
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.media import Section
from aigc_ops.promotion.config import PromotionConfig
from aigc_ops.promotion.gate import Costs, Ruling, guards_of, judge, num_looks, unequal
from aigc_ops.promotion.packet import write_packet
from aigc_ops.promotion.validity import invalid_reason, memorisation_reason, unmeasured_note
from aigc_ops.registry import aliases as registry
from aigc_ops.registry import evidence as store
from aigc_ops.registry.aliases import AUTOMATIC, Decision
from aigc_ops.registry.evidence import Evidence
from aigc_ops.registry.resolution import fetch
from aigc_ops.registry.versions import champion as champion_of


@dataclass(frozen=True)
class Setting:
    """What a comparison is made under: the run's own data, evaluation and promotion."""

    dataset: DatasetRef
    data: DataConfig
    evaluation: EvaluationConfig
    promotion: PromotionConfig
    seed: int

    @property
    def cache(self) -> Path:
        return home() / "cache" / "reference"

    def digest(self, scores: Scores | None) -> str:
        """Return a digest of all that a comparison of a version with these scores is based on."""
        return json_digest(
            {
                "promotion": self.promotion.stable_dump(),
                "evaluation": self.evaluation.stable_dump(),
                "dataset": self.dataset.content_digest,
                "scores": scores.digest if scores else None,
            }
        )


def promote(version: ModelVersion, setting: Setting, *, flow_run: str | None = None) -> Verdict:
    """Weigh the version against the champion and do what gate and config say.

    A version that the gate would promote becomes champion at once where the config says
    `automatic`; else it waits for a person, as an undecided one always does, and one that a person
    rolled back from. One that the gate keeps back becomes challenger. Asked again on the same
    evidence, it says the same, unless a person has turned the version down since. Raises
    RegistryError or CheckpointError for a version that is not ready, or damaged.
    """
    moved = registry.reconcile(version.name, setting.promotion.guard)
    champion = champion_of(version.name)
    if champion == version:
        return Verdict(
            model=version,
            promoted=True,
            alias="champion",
            champion=version,
            reasons=("it is the champion already", *moved),
        )
    mine = store.evidence_of(version)
    ruling, digest, folder = _weighed(mine, champion, setting)
    decision = Decision(
        who=AUTOMATIC,
        reason="; ".join(ruling.reasons)[:500],
        gate=ruling.outcome,
        packet_digest=digest,
        flow_run=flow_run,
    )
    refused, left = registry.turned_down(version, digest), registry.rolled_back(version)
    is_automatic = setting.promotion.approval == "automatic"
    promoted = ruling.outcome == "promote" and is_automatic and not (refused or left)
    if promoted:
        registry.promote(version, decision, champion=champion.version if champion else None)
    elif not refused:
        registry.challenge(version, decision)
    reasons = (*ruling.reasons, *moved)
    if refused:
        reasons = (registry.said_no(refused), *reasons)
    elif left:
        reasons = (f"{left.who} rolled back from it ({left.reason}): a person decides", *reasons)
    return Verdict(
        model=version,
        promoted=promoted,
        alias="champion" if promoted else "challenger",
        champion=version if promoted else champion,
        reasons=reasons,
        gate=ruling.outcome,
        waiting=not (promoted or refused or ruling.outcome == "keep"),
        packet_digest=digest,
        packet_uri=str(folder / store.PAGE),
    )


def _weighed(
    mine: Evidence, champion: ModelVersion | None, setting: Setting
) -> tuple[Ruling, str, Path]:
    """The ruling, the packet's digest and its folder: those of before on the same evidence."""
    basis = {
        "champion": champion.version if champion else None,
        "settings": setting.digest(mine.scores),
    }
    known = store.basis_of(mine.version)
    if known.items() >= basis.items():
        try:
            packet = store.read_packet(mine.version)
            ruling = Ruling.model_validate(packet.content["ruling"])
            return ruling, packet.packet_digest, Path(packet.folder)
        except RegistryError:
            pass  # it is made anew
    ruling, mine, theirs = _rule(mine, champion, setting)
    if ruling.outcome == "undecided" and ruling.num is None:
        basis["settings"] = ""  # nothing was compared: asked again, it may be
    if note := unmeasured_note(mine.scores):
        ruling = ruling.model_copy(update={"reasons": (*ruling.reasons, note)})
    with tempfile.TemporaryDirectory(prefix=".packet-", dir=home()) as name:
        folder = Path(name) / "packet"
        sides = [each for each in (mine, theirs) if each]
        roles = ("version", "champion")
        names = [f"{role} {each.version.version}" for role, each in zip(roles, sides, strict=False)]
        write_packet(
            folder,
            mine,
            theirs,
            ruling,
            _shown(sides, names, setting),
            [(n, store.curves_of(each.version)) for n, each in zip(names, sides, strict=True)],
            setting.promotion,
        )
        digest = store.store_packet(mine.version, folder, basis)
        kept = home() / "packets" / digest
        kept.parent.mkdir(exist_ok=True)
        if not kept.exists():
            folder.rename(kept)
    return ruling, digest, kept


def _shown(sides: Sequence[Evidence], names: Sequence[str], setting: Setting) -> list[Section]:
    """Return samples of both; none of a version that cannot generate any more."""
    named = [(name, fetch(each.version)) for name, each in zip(names, sides, strict=True)]
    for num in (len(named), 1):
        try:
            return side_by_side(
                named[:num],
                setting.dataset,
                setting.data,
                setting.evaluation,
                seed=setting.seed,
                cache=setting.cache,
            )
        except AigcOpsError:
            continue  # a champion that no longer draws, or does not fit the data
    return []


def _rule(
    mine: Evidence, champion: ModelVersion | None, setting: Setting
) -> tuple[Ruling, Evidence, Evidence | None]:
    """What the gate says, and both records with the scores that it looked at last."""
    unfit = _unfit(mine.scores, setting)
    if champion is None:
        if unfit:
            return unfit, mine, None
        reason = f"the first valid version while {mine.version.name} has no champion"
        return Ruling(outcome="promote", reasons=(reason,)), mine, None
    theirs = None
    try:
        theirs = store.evidence_of(champion)
        if unfit:
            return unfit, mine, theirs
        assert mine.scores is not None, mine.version.uri
        return _compare(mine, mine.scores, theirs, setting)
    except (CheckpointError, EvaluationError, ModelError, RegistryError) as error:
        reason = f"the champion, version {champion.version}, cannot be judged here: {error}"
        return Ruling(outcome="undecided", reasons=(reason,)), mine, theirs


def _unfit(scores: Scores | None, setting: Setting) -> Ruling | None:
    """The ruling on scores that cannot carry a promotion, None for those that can."""
    why = invalid_reason(scores) or memorisation_reason(scores, setting.promotion)
    return Ruling(outcome="keep", reasons=(f"not valid: {why}",)) if why else None


def _compare(
    mine: Evidence, scores: Scores, theirs: Evidence, setting: Setting
) -> tuple[Ruling, Evidence, Evidence]:
    """Compare both, with twice the samples each time, until the gate is sure or may not."""
    ours, rival = fetch(mine.version), fetch(theirs.version)
    standing = theirs.scores
    modality = setting.dataset.modality
    growing = find_modality(modality).evaluation.growing
    first = scores.values[scores.primary].contract.get("n")
    looks = num_looks(int(str(first)), setting.promotion) if growing else 1
    costs = Costs(
        slowdown=sampling_time_ratio(ours, rival, setting.evaluation),
        growth=mine.num_bytes / max(1, theirs.num_bytes),
    )
    for look in range(1, looks + 1):
        evaluation = setting.evaluation
        if growing:
            num = int(str(first)) * 2 ** (look - 1)
            evaluation = evaluation.with_section(modality, **{growing: num})
        paired = compare(
            ours,
            rival,
            setting.dataset,
            setting.data,
            evaluation,
            seed=setting.seed,
            cache=setting.cache,
        )
        is_fresh = look > 1 or paired.metric != scores.primary
        if is_fresh:
            scores = _evaluated(ours, evaluation, setting)
        if standing is None or not _is_comparable(scores, standing):
            standing = _evaluated(rival, evaluation, setting)
            if not (is_fresh or _is_comparable(scores, standing)):
                scores = _evaluated(ours, evaluation, setting)
        guards = guards_of(scores, standing, costs, setting.promotion)
        ruling = _unfit(scores, setting) or judge(
            paired, guards, setting.promotion, look=look, looks=looks
        )
        if ruling.outcome != "undecided":
            break
    return (
        ruling,
        mine.model_copy(update={"scores": scores}),
        theirs.model_copy(update={"scores": standing}),
    )


def _is_comparable(mine: Scores, theirs: Scores) -> bool:
    """Whether all that the gate looks at was measured of both, under equal contracts."""
    if invalid_reason(theirs) or theirs.primary != mine.primary:
        return False
    guards = find_modality(mine.modality).guards
    return not any(unequal(name, mine, theirs) for name in (mine.primary, *guards))


def _evaluated(checkpoint: Checkpoint, evaluation: EvaluationConfig, setting: Setting) -> Scores:
    """Scores under this run's contract, reported to nobody."""
    digest = json_digest([checkpoint.manifest_digest, evaluation.stable_dump()])
    return evaluate(
        checkpoint,
        setting.dataset,
        setting.data,
        evaluation,
        seed=setting.seed,
        cache=setting.cache,
        folder=home() / "evaluations" / "compared" / digest[:16],
        tracker=SilentTracker(),
    )
