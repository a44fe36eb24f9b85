"""The model card: what people read of a version in MLflow and beside its weights."""

from collections.abc import Mapping
from typing import Any

from aigc_ops.core.artifacts import Checkpoint, DatasetRef, Scores
from aigc_ops.core.escaping import markdown
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.request import Control, joined
from aigc_ops.registry.audit_log import Entry

SCORES_HEADING = "\n\n## Scores\n\n"
USE_HEADING = "\n\n## Use\n\n"
DECISION_HEADING = "\n\n## Promotion\n\n"
REASONS_LENGTH = 900
CARD_LENGTH = 4000
"""Characters of a description; MLflow's column holds 5,000, and a decision follows."""


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
    """The card of a version in Markdown."""
    facts = _table(_facts(checkpoint, provenance, dataset, num_parameters))
    use = _use(name, checkpoint, controls)
    return f"# {name}\n\n{facts}{SCORES_HEADING}{_scores(scores)}{USE_HEADING}{use}\n"


def rescored(text: str, scores: Scores) -> str:
    """A description with its section of scores made anew."""
    before, scored, rest = text.partition(SCORES_HEADING)
    _, used, after = rest.partition(USE_HEADING)
    if not (scored and used):
        return text
    return description(f"{before}{scored}{_scores(scores)}{used}{after}")


def with_decision(text: str, entry: Entry) -> str:
    """A description that ends with the latest decision on the version."""
    said = f"{markdown(entry.who)}: {markdown(entry.reason)}"[:REASONS_LENGTH]
    before = text.partition(DECISION_HEADING)[0]
    return f"{before}{DECISION_HEADING}{entry.action}, {entry.time[:19]} UTC, {said}"


def description(card: str) -> str:
    """The card as a version's description, cut where MLflow's column would refuse it."""
    if len(card) <= CARD_LENGTH:
        return card
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
    shared: dict[str, list[str]] = {}
    for key, score in scores.values.items():
        terms = ", ".join(f"{term} {_cell(value)}" for term, value in score.contract.items())
        shared.setdefault(terms, []).append(f"`{key}`")
    for terms, keys in shared.items():
        hold = "holds" if len(keys) == 1 else "hold"
        lines.append(f"\n{', '.join(keys)} {hold} under: {terms}.")
    return "\n".join(lines)


def _use(name: str, checkpoint: Checkpoint, controls: Mapping[str, Control]) -> str:
    columns = list(find_modality(checkpoint.modality).requests.columns)
    columns += ["controls"] if controls else []
    return f"""The golden samples and the last sample grid lie in the model's artifacts.

```
aigc-ops sample models:/{name}@champion --num 16 --seed 0 --out samples
```

```python
import mlflow, pandas
model = mlflow.pyfunc.load_model("models:/{name}@champion")
model.predict(pandas.DataFrame({{"seed": [0, 1, 2]}}))  # optional columns: {", ".join(columns)}
```{_controls(controls)}"""


def _controls(controls: Mapping[str, Control]) -> str:
    """What samples can be asked for, with the ways to ask; nothing for a model without."""
    if not controls:
        return ""
    name, control = next(iter(controls.items()))
    rows = [
        f"| {key} | {each.bounds} | {_cell(each.description)} |" for key, each in joined(controls)
    ]
    table = "\n".join(["| Control | Range | Meaning |", "|---|---|---|", *rows])
    return f"""

{table}

Set one with `--set {name}={control.high:g}`, or in the column `controls`, which holds JSON such as
`{{"{name}": {control.high:g}}}`. One that is not set keeps to its usual value or to the seed."""


def _cell(value: object) -> str:
    """A value that cannot break out of its table cell."""
    return str(value).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
