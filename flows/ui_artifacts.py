"""Artifacts on a run's page in the Prefect UI: samples, scores, version, verdict and Bento."""

from pathlib import Path

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from aigc_ops.core.artifacts import BentoTag, Checkpoint, ModelVersion, RunResult, Scores, Verdict
from aigc_ops.core.escaping import markdown
from aigc_ops.interfaces.media import Picture, Text, data_uri, read_medium
from aigc_ops.registry import ui_links


def show(result: RunResult) -> None:
    """Create the artifacts of a whole run."""
    show_samples(result.name, result.checkpoint)
    show_scores(result.name, result.scores)
    show_version(result.version)
    show_verdict(result.verdict)
    if result.bento:
        show_bento(result.bento)


def show_samples(name: str, checkpoint: Checkpoint) -> None:
    """Show the last samples as an image, a text or a link to the file."""
    if checkpoint.grid_uri is None:
        return
    samples, key = Path(checkpoint.grid_uri), _key(name, "samples")
    description = f"Samples after step {checkpoint.step}, the same seeds at every step."
    medium = read_medium(samples)
    # The UI displays images and text. It has no player, so other media are linked.
    if isinstance(medium, Picture):
        create_image_artifact(image_url=data_uri(medium), key=key, description=description)
    elif isinstance(medium, Text):
        create_markdown_artifact(f"```text\n{medium.text}\n```", key=key, description=description)
    else:
        create_link_artifact(
            samples.absolute().as_uri(), link_text=samples.name, key=key, description=description
        )


def show_scores(name: str, scores: Scores) -> None:
    """Show each score with its interval and evaluation conditions."""
    rows = [
        {"metric": metric, "value": s.value, "low": s.low, "high": s.high, **s.contract}
        for metric, s in scores.values.items()
    ]
    create_table_artifact(
        rows,
        key=_key(name, "scores"),
        description="Comparable only under equal evaluation conditions.",
    )


def show_version(version: ModelVersion) -> None:
    """Show the model card and links to the version and its run in MLflow."""
    create_markdown_artifact(ui_links.card(version), key=_key(version.name, "model-card"))
    for what, link in ui_links.links(version).items():
        create_link_artifact(link, link_text=what, key=_key(version.name, f"mlflow-{what}"))


def show_verdict(verdict: Verdict) -> None:
    """Show the decision with its reasons and a link to the review packet."""
    # Reasons quote reviewers and file names: escaped, so that they add no links or images.
    version, key = verdict.model, _key(verdict.model.name, "verdict")
    reasons = "\n".join(f"- {markdown(reason)}" for reason in verdict.reasons)
    what = f"is **{verdict.alias or 'held back'}**"
    if verdict.waiting:
        what = "waits for a person's decision"
    create_markdown_artifact(
        f"**{version.uri}** {what}.\n\n{reasons}\n\n"
        f"`aigc-ops review {version.name} {version.version}` opens the evidence.",
        key=key,
    )
    # A version that was champion already has no new packet.
    if verdict.packet_digest:
        link = ui_links.packet_link(version, verdict.packet_digest)
        create_link_artifact(
            link, link_text="review packet", key=_key(version.name, "review-packet")
        )


def show_bento(bento: BentoTag) -> None:
    """Show how a Bento was checked, and the command that serves it."""
    create_markdown_artifact(
        f"`{bento.tag}` was started and generated {bento.num_golden} golden samples, which differ "
        f"by at most {bento.max_levels_apart} of 255 levels. Serve it: "
        f"`aigc-ops serve {bento.model.uri}`",
        key=_key(bento.model.name, "bento"),
    )


def _key(name: str, what: str) -> str:
    """Return an artifact key; Prefect accepts only lower-case letters, digits and dashes."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower())
    return f"{plain}-{what}"
