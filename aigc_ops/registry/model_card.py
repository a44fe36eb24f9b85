"""The model card of a version: shown in MLflow, and stored beside the weights."""

from collections.abc import Mapping
from typing import Any

from aigc_ops.core.artifacts import Checkpoint, DatasetRef, Scores
from aigc_ops.core.escaping import markdown
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.request import Control, group_equal_controls
from aigc_ops.registry.audit_log import Entry

# Cards in the registry are split at these headings, so they must stay as they are.
SCORES_HEADING = "\n\n## Scores\n\n"
USE_HEADING = "\n\n## Use\n\n"
DECISION_HEADING = "\n\n## Promotion\n\n"
REASONS_LENGTH = 900
CARD_LENGTH = 4000
"""Maximum characters of a description: MLflow allows 5,000, and a decision is added later."""


def model_card(
    name: str,
    checkpoint: Checkpoint,
    scores: Scores | None,
    provenance: Mapping[str, Any],
    *,
    dataset: DatasetRef | None,
    num_parameters: int,
    controls: Mapping[str, Control],
) -> str:
    """Return the card of a version in Markdown."""
    facts = _table(_facts(checkpoint, provenance, dataset, num_parameters))
    use = _use(name, checkpoint, controls)
    return f"# {name}\n\n{facts}{SCORES_HEADING}{_scores(scores)}{USE_HEADING}{use}\n"


def rescored(text: str, scores: Scores) -> str:
    """Return a description with its section of scores replaced."""
    before, scored, rest = text.partition(SCORES_HEADING)
    _, used, after = rest.partition(USE_HEADING)
    # Somebody edited the description in MLflow: it is theirs, and stays as it is.
    if not (scored and used):
        return text
    return description(f"{before}{scored}{_scores(scores)}{used}{after}")


def with_decision(text: str, entry: Entry) -> str:
    """Return a description that ends with the latest decision on the version."""
    # Reviewers' texts are escaped before they are cut: the cut may only shorten harmless text.
    summary = f"{markdown(entry.who)}: {markdown(entry.reason)}"[:REASONS_LENGTH]
    before = text.partition(DECISION_HEADING)[0]
    return f"{before}{DECISION_HEADING}{entry.action}, {entry.time[:19]} UTC, {summary}"


def description(card: str) -> str:
    """Return the card as a version's description, cut to the length that MLflow accepts."""
    if len(card) <= CARD_LENGTH:
        return card
    # Cut at a line's end, so that no row of a table is cut.
    return card[:CARD_LENGTH].rpartition("\n")[0] + "\n\n… the whole card is `README.md`.\n"


def _facts(
    checkpoint: Checkpoint,
    provenance: Mapping[str, Any],
    dataset: DatasetRef | None,
    num_parameters: int,
) -> dict[str, object]:
    revision = provenance.get("revision") or {}
    facts: dict[str, object] = {
        "Family": f"{checkpoint.family} ({checkpoint.modality})",
        "Parameters": f"{num_parameters:,}",
        "Trained for": f"{checkpoint.step:,} steps, seed {provenance.get('seed', 'unknown')}",
        "Data": f"`{checkpoint.dataset_digest}`",
        "Data in DVC": f"`{provenance['dvc_digest']}`"
        if provenance.get("dvc_digest")
        else "not pinned",
        "Code": f"commit `{revision['commit']}`" if revision else "not in a git repository",
    }
    if revision.get("diff_digest"):
        facts["Code"] = f"{facts['Code']} with uncommitted changes `{revision['diff_digest']}`"
    if dataset is not None:
        facts["Rows"] = f"{dataset.num_train:,} to train on, {dataset.num_heldout:,} held out"
        facts["Sources"] = ", ".join(dataset.sources) or "not stated"
        facts["Licences of the data"] = ", ".join(dataset.licences) or "not stated"
    facts["Checkpoint"] = f"`{checkpoint.manifest_digest}`"
    return facts


def _table(facts: Mapping[str, object]) -> str:
    rows = [f"| {key} | {_cell(value)} |" for key, value in facts.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _scores(scores: Scores | None) -> str:
    if scores is None:
        return "Not evaluated."
    lines = ["| Metric | Value | Interval |", "|---|---|---|"]
    for key, score in scores.values.items():
        mark = " (decides promotion; lower is better)" if key == scores.primary else ""
        interval = f"{score.low:.4g} to {score.high:.4g}"
        lines.append(f"| {_cell(key)}{mark} | {score.value:.5g} | {interval} |")
    # Many scores have equal evaluation conditions, which are listed once for all of them.
    shared: dict[str, list[str]] = {}
    for key, score in scores.values.items():
        terms = ", ".join(f"{term} {_cell(value)}" for term, value in score.contract.items())
        shared.setdefault(terms, []).append(f"`{key}`")
    for terms, keys in shared.items():
        lines.append(f"\nEvaluation conditions of {', '.join(keys)}: {terms}.")
    return "\n".join(lines)


def _use(name: str, checkpoint: Checkpoint, controls: Mapping[str, Control]) -> str:
    columns = [each.name for each in find_modality(checkpoint.modality).requests.conditions]
    columns += ["controls"] if controls else []
    return f"""The golden samples and the last sample grid are among the model's artifacts.

```
aigc-ops sample models:/{name}@champion --num 16 --seed 0 --out samples
```

```python
import mlflow, pandas
model = mlflow.pyfunc.load_model("models:/{name}@champion")
model.predict(pandas.DataFrame({{"seed": [0, 1, 2]}}))  # optional columns: {", ".join(columns)}
```{_controls(controls)}"""


def _controls(controls: Mapping[str, Control]) -> str:
    """Return the section on the model's controls; empty for a model without."""
    if not controls:
        return ""
    name, control = next(iter(controls.items()))
    rows = [
        f"| {key} | {entry.bounds} | {_cell(entry.description)} |"
        for key, entry in group_equal_controls(controls)
    ]
    table = "\n".join(["| Control | Range | Meaning |", "|---|---|---|", *rows])
    return f"""

{table}

Set one with `--set {name}={control.high:g}`, or in the column `controls`, which holds JSON such as
`{{"{name}": {control.high:g}}}`. A control that is not set has its default or depends on the
seed."""


def _cell(value: object) -> str:
    """Return a value with the characters escaped that would end its table cell."""
    return str(value).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
