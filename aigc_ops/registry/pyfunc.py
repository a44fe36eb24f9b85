"""A registered model as an MLflow Python function: one input row is one sample.

Image models return `image` (PNG bytes), `seed` and `label`; text models return `text`, `seed` and
`prompt`. Controls and a conversation are columns of JSON text.
"""

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from aigc_ops import __version__
from aigc_ops.compute.random import MAX_SEED
from aigc_ops.core.errors import ModelError
from aigc_ops.interfaces.discovery import find_modality, modality_names
from aigc_ops.interfaces.modality import Modality
from aigc_ops.interfaces.model import Generative
from aigc_ops.interfaces.request import Control, SampleRequest
from aigc_ops.sampling.sampler import generate
from aigc_ops.storage.checkpoints import load_model

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

DIGEST = "manifest_digest"
PINNED = ("torch", "safetensors", "numpy", "pandas")


class SamplingFunction:
    """The Python model that `mlflow.pyfunc.load_model(...)` wraps."""

    def __init__(self, model: Generative[Any]) -> None:
        self.model = model
        self._modality = find_modality(model.modality)

    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:
        """Generate one sample per row of `seed` with optional `label`, `prompt` and `controls`.

        `controls` is a JSON object of numbers by name, such as `{"truncation": 0.7}`. A
        conditional image model cycles through its classes where a row has no label. For a text
        model `history` is a JSON list of the messages before the prompt, objects of role and
        content. `stop` is a JSON list of strings before which the text ends.
        """
        sample_requests = [
            self._request(index, row) for index, row in enumerate(_rows(model_input))
        ]
        samples, codec = generate(self.model, sample_requests), self._modality.samples
        table: dict[str, list[Any]] = {"seed": [request.seed for request in sample_requests]}
        for condition in self._modality.requests.conditions:
            if condition.is_echoed:
                table[condition.name] = [condition.of(request) for request in sample_requests]
        table[codec.json_name] = [codec.column_value(sample) for sample in samples]
        return pd.DataFrame(table, index=model_input.index, dtype=object).infer_objects()

    def _request(self, index: int, row: Mapping[str, Any]) -> SampleRequest:
        # A column of another modality is an error, not to be ignored. MLflow drops columns that the
        # signature lacks, so it gets here only without a signature.
        accepted = {"seed", "controls", *_columns(self._modality)}
        for name in _request_columns() - accepted:
            if row.get(name) is not None:
                known = ", ".join(sorted(accepted))
                raise ModelError(f"row {index}: this model takes no {name}; it takes {known}")
        return SampleRequest(
            int(row["seed"]),
            self._modality.requests.from_row(self.model, index, row),
            _control_values(index, row.get("controls")),
        )


def _request_columns() -> set[str]:
    """Return the optional input columns of all modalities."""
    return {column for name in modality_names() for column in _columns(find_modality(name))}


def _columns(modality: Modality[Any]) -> list[str]:
    return [condition.name for condition in modality.requests.conditions]


def _load_pyfunc(path: str) -> SamplingFunction:
    """Return the model of a folder; MLflow calls this function by its name."""
    # MLmodel, beside the folder, has the digest from registration: weights that were changed in the
    # artifact store are refused before they are loaded.
    folder = Path(path)
    record = yaml.safe_load((folder.parent / "MLmodel").read_text(encoding="utf-8"))
    expected = record["flavors"]["python_function"][DIGEST]
    return SamplingFunction(load_model(folder, expected=expected))


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows with missing values as None; raises ModelError without a seed."""
    if "seed" not in table.columns:
        raise ModelError(
            f"expected a column seed, found {', '.join(map(str, table.columns)) or 'no columns'}; "
            "give one row per sample: seed, and label or prompt"
        )
    rows = [
        {str(key): None if pd.isna(value) else value for key, value in row.items()}
        for row in table.to_dict("records")
    ]
    # pandas turns a column of integers with a gap into floats: 7.0 is a seed, 7.5 is not.
    for index, row in enumerate(rows):
        seed = row["seed"]
        if seed is None or int(seed) != seed or not 0 <= seed <= MAX_SEED:
            problem = "has no seed" if seed is None else f"has seed {seed}"
            raise ModelError(f"row {index} {problem}; give a whole number from 0 to {MAX_SEED}")
    return rows


def _control_values(index: int, content: Any) -> dict[str, float]:
    """Return the controls in a row's JSON; raises ModelError unless it is numbers by name."""
    # JSON in one column of text: MLflow drops columns that a signature lacks, so a misspelt control
    # in a column of its own would be ignored. In the JSON the model refuses it.
    if content is None:
        return {}
    values = _parsed(content)
    # The exact type, because bool is a subclass of int.
    if not isinstance(values, dict) or {type(value) for value in values.values()} - {int, float}:
        raise ModelError(
            f"row {index} has controls {content!r}; give a JSON object of numbers, such as "
            '{"truncation": 0.7}'
        )
    return values


def _parsed(content: Any) -> Any:
    try:
        return json.loads(content)
    except (TypeError, ValueError):
        return None


def write_flavor(
    folder: Path, *, data: str, digest: str, modality: str, controls: Mapping[str, Control]
) -> None:
    """Write the files with which MLflow loads the model folder `folder / data`."""
    from mlflow.models import Model

    # 1. MLmodel.
    metadata: dict[str, Any] = {"modality": modality, DIGEST: digest}
    if controls:
        metadata["controls"] = {
            name: f"{control.bounds}: {control.description}" for name, control in controls.items()
        }
    flavored = Model(signature=signature(modality, bool(controls)), metadata=metadata)
    # The same as mlflow.pyfunc.add_to_model, whose import takes 0.7 s. Registered models name this
    # module, so it cannot be renamed.
    flavored.add_flavor(
        "python_function",
        loader_module=__name__,
        data=data,
        python_version=python_version(),
        env={"virtualenv": "python_env.yaml"},
        **{DIGEST: digest},
    )
    flavored.save(str(folder / "MLmodel"))
    # 2. The environment. Exact versions: golden samples were generated with these.
    lines = [f"aigc-ops=={_public_version('aigc-ops')}", f"mlflow=={_public_version('mlflow')}"]
    lines += [f"{name}=={_public_version(name)}" for name in PINNED]
    (folder / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    environment = {
        "python": python_version(),
        "build_dependencies": ["pip"],
        "dependencies": ["-r requirements.txt"],
    }
    (folder / "python_env.yaml").write_text(
        yaml.safe_dump(environment, sort_keys=False), encoding="utf-8"
    )


def signature(modality: str, has_controls: bool) -> "ModelSignature":
    """Return the columns of `predict`'s input and output, for MLflow."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    requests, codec = find_modality(modality).requests, find_modality(modality).samples
    seed = ColSpec(DataType.long, "seed")
    optional = {
        condition: ColSpec(DataType[condition.column_type], condition.name, required=False)
        for condition in requests.conditions
    }
    inputs = [seed, *optional.values()]
    if has_controls:
        inputs.append(ColSpec(DataType.string, "controls", required=False))
    content = ColSpec(DataType[codec.column_type], codec.json_name)
    echoed = [column for condition, column in optional.items() if condition.is_echoed]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema([seed, *echoed, content]))


def _public_version(package: str) -> str:
    """Return the installed version without a local label such as +cu130."""
    # PyPI has no local versions: pip could not install torch==2.9.0+cu130 from there.
    try:
        return installed_version(package).partition("+")[0]
    except PackageNotFoundError:
        return __version__
