"""What a run's page in the Prefect UI shows of its result, whether it was made or reused.

Called from flows, never from a cached task's body, which a later run passes over.
"""

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
    """Everything of a whole run."""
    show_samples(result.name, result.checkpoint)
    show_scores(result.name, result.scores)
    show_version(result.version)
    show_verdict(result.verdict)
    if result.bento:
        show_bento(result.bento)


def show_samples(name: str, checkpoint: Checkpoint) -> None:
    """The last samples, as a picture, a text or a link to the file."""
    if checkpoint.grid_uri is None:
        return
    samples, key = Path(checkpoint.grid_uri), _key(name, "samples")
    description = f"Samples after step {checkpoint.step}, the same seeds at every step."
    medium = read_medium(samples)
    if isinstance(medium, Picture):
        create_image_artifact(image_url=data_uri(medium), key=key, description=description)
    elif isinstance(medium, Text):
        create_markdown_artifact(f"```text\n{medium.text}\n```", key=key, description=description)
    else:
        create_link_artifact(
            samples.absolute().as_uri(), link_text=samples.name, key=key, description=description
        )


def show_scores(name: str, scores: Scores) -> None:
    """Each score with its interval and contract."""
    rows = [
        {"metric": metric, "value": s.value, "low": s.low, "high": s.high, **s.contract}
        for metric, s in scores.values.items()
    ]
    create_table_artifact(
        rows, key=_key(name, "scores"), description="Comparable under equal contracts only."
    )


def show_version(version: ModelVersion) -> None:
    """The model card, and where MLflow shows the version and its run."""
    create_markdown_artifact(ui_links.card(version), key=_key(version.name, "model-card"))
    for what, link in ui_links.links(version).items():
        create_link_artifact(link, link_text=what, key=_key(version.name, f"mlflow-{what}"))


def show_verdict(verdict: Verdict) -> None:
    """What was decided and why, and the review packet."""
    version, key = verdict.model, _key(verdict.model.name, "verdict")
    reasons = "\n".join(f"- {markdown(reason)}" for reason in verdict.reasons)
    what = "waits for a person's decision" if verdict.waiting else f"is **{verdict.alias}**"
    create_markdown_artifact(
        f"**{version.uri}** {what}.\n\n{reasons}\n\n"
        f"`aigc-ops review {version.name} {version.version}` opens the evidence.",
        key=key,
    )
    if verdict.packet_digest:
        link = ui_links.packet_link(version, verdict.packet_digest)
        create_link_artifact(
            link, link_text="review packet", key=_key(version.name, "review-packet")
        )


def show_bento(bento: BentoTag) -> None:
    """How a Bento was confirmed, and how it is served."""
    create_markdown_artifact(
        f"`{bento.tag}` was booted and drew {bento.num_golden} golden samples at most "
        f"{bento.max_levels_apart} of 255 levels apart. Serve it: "
        f"`aigc-ops serve {bento.model.uri}`",
        key=_key(bento.model.name, "bento"),
    )


def _key(name: str, what: str) -> str:
    """An artifact key, which Prefect wants in lower case, digits and dashes."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower())
    return f"{plain}-{what}"
