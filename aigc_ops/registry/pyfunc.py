"""A registered model as an MLflow Python function: one input row is one sample.

Image models answer with `image` (PNG bytes), `seed` and `label`; text models with
`text`, `seed` and `prompt`. A model with controls takes them as JSON in one column of text:
MLflow drops columns that a signature lacks, so a misspelt one would go unnoticed, while a
misspelt name in the JSON is refused by the model. A conversation and stop strings are JSON too.
"""

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Any, get_args

import pandas as pd
import yaml
from torch import Tensor

from aigc_ops import __version__
from aigc_ops.artifacts import Modality
from aigc_ops.checkpoints import load_model
from aigc_ops.errors import ModelError
from aigc_ops.generative import Generative, ImageModel
from aigc_ops.noise import MAX_SEED
from aigc_ops.sample_request import Control, Message, Role, SampleRequest
from aigc_ops.sampling import draw, png_bytes

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

DIGEST = "manifest_digest"
PINNED = ("torch", "safetensors", "numpy", "pandas")


class SamplingFunction:
    """The model behind `mlflow.pyfunc.load_model(...)`."""

    def __init__(self, model: Generative) -> None:
        self.model = model

    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:
        """One sample per row of `seed` and, where wanted, `label` or `prompt`, and `controls`.

        `controls` is a JSON object of numbers by name, such as `{"truncation": 0.7}`. A
        conditional image model goes round its classes where a row gives no label. For a text
        model `history` is a JSON list of the messages before the prompt, objects of role and
        content, and `stop` one of the strings before which the text ends.
        """
        asked = [self._request(index, row) for index, row in enumerate(_rows(model_input))]
        samples = draw(self.model, asked)
        table: dict[str, list[Any]] = {"seed": [request.seed for request in asked]}
        if isinstance(samples, Tensor):
            table["label"] = [request.label for request in asked]
            table["image"] = [png_bytes(image) for image in samples]
        else:
            table["prompt"] = [request.prompt for request in asked]
            table["text"] = samples
        return pd.DataFrame(table, index=model_input.index, dtype=object).infer_objects()

    def _request(self, index: int, row: Mapping[str, Any]) -> SampleRequest:
        label, prompt = row.get("label"), row.get("prompt")
        num_classes = self.model.shape.num_classes if isinstance(self.model, ImageModel) else 0
        if label is None and num_classes:
            label = index % num_classes
        return SampleRequest(
            seed=int(row["seed"]),
            label=None if label is None else int(label),
            prompt=prompt,
            controls=_control_values(index, row.get("controls")),
            history=_messages(index, row.get("history")),
            stop=_stop_strings(index, row.get("stop")),
        )


def _load_pyfunc(path: str) -> SamplingFunction:
    """What MLflow calls: the model of the folder, if the folder is the registered one."""
    folder = Path(path)
    record = yaml.safe_load((folder.parent / "MLmodel").read_text(encoding="utf-8"))
    expected = record["flavors"]["python_function"][DIGEST]
    return SamplingFunction(load_model(folder, expected=expected))


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows with absent values as None; raises ModelError when there is no seed."""
    if "seed" not in table.columns:
        raise ModelError(
            f"expected a column seed, found {', '.join(map(str, table.columns)) or 'no columns'}; "
            "give one row a sample: seed, and label or prompt"
        )
    rows = [
        {str(key): None if pd.isna(value) else value for key, value in row.items()}
        for row in table.to_dict("records")
    ]
    for index, row in enumerate(rows):
        seed = row["seed"]
        if seed is None or int(seed) != seed or not 0 <= seed <= MAX_SEED:
            found = "has no seed" if seed is None else f"has seed {seed}"
            raise ModelError(f"row {index} {found}; give a whole number from 0 to {MAX_SEED}")
    return rows


def _control_values(index: int, content: Any) -> dict[str, float]:
    """The numbers by name that a row's JSON holds; raises ModelError for anything else."""
    if content is None:
        return {}
    values = _parsed(content)
    if not isinstance(values, dict) or {type(each) for each in values.values()} - {int, float}:
        raise ModelError(
            f"row {index} has controls {content!r}; give a JSON object of numbers, such as "
            '{"truncation": 0.7}'
        )
    return values


def _messages(index: int, content: Any) -> tuple[Message, ...]:
    """The conversation that a row's JSON holds; raises ModelError for anything else."""
    if content is None:
        return ()
    messages = _parsed(content)
    try:
        history = [(each["role"], each["content"]) for each in messages]
    except (TypeError, KeyError):
        history = [(None, None)]
    if any(role not in get_args(Role) or not isinstance(text, str) for role, text in history):
        raise ModelError(
            f"row {index} has history {content!r}; give a JSON list of objects with role "
            f"({', '.join(get_args(Role))}) and content"
        )
    return tuple(Message(role, text) for role, text in history)


def _stop_strings(index: int, content: Any) -> tuple[str, ...]:
    """The strings that a row's JSON holds; raises ModelError for anything else."""
    values = [] if content is None else _parsed(content)
    if not isinstance(values, list) or any(not isinstance(each, str) for each in values):
        raise ModelError(f'row {index} has stop {content!r}; give a JSON list, such as ["\\n"]')
    return tuple(values)


def _parsed(content: Any) -> Any:
    try:
        return json.loads(content)
    except (TypeError, ValueError):
        return None


def write_flavor(
    folder: Path, *, data: str, digest: str, modality: Modality, controls: Mapping[str, Control]
) -> None:
    """Write what MLflow needs to load a model folder that lies at `folder / data`."""
    from mlflow.models import Model

    metadata: dict[str, Any] = {"modality": modality, DIGEST: digest}
    if controls:
        metadata["controls"] = {
            name: f"{each.bounds}: {each.description}" for name, each in controls.items()
        }
    flavored = Model(signature=signature(modality, bool(controls)), metadata=metadata)
    # As mlflow.pyfunc.add_to_model does, whose import takes 0.7 s.
    flavored.add_flavor(
        "python_function",
        loader_module=__name__,
        data=data,
        python_version=python_version(),
        env={"virtualenv": "python_env.yaml"},
        **{DIGEST: digest},
    )
    flavored.save(str(folder / "MLmodel"))
    lines = [f"aigc-ops=={_public_version('aigc-ops')}", f"mlflow=={_public_version('mlflow')}"]
    lines += [f"{name}=={_public_version(name)}" for name in PINNED]
    (folder / "requirements.txt").write_text("\n".join(lines) + "\n")
    environment = {
        "python": python_version(),
        "build_dependencies": ["pip"],
        "dependencies": ["-r requirements.txt"],
    }
    (folder / "python_env.yaml").write_text(yaml.safe_dump(environment, sort_keys=False))


def signature(modality: Modality, has_controls: bool) -> "ModelSignature":
    """Columns of `predict`'s input and output, for MLflow."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    seed = ColSpec(DataType.long, "seed")
    if modality == "text":
        choice, answer = ColSpec(DataType.string, "prompt", required=False), "text"
        content = ColSpec(DataType.string, answer)
    else:
        choice, answer = ColSpec(DataType.long, "label", required=False), "image"
        content = ColSpec(DataType.binary, answer)
    asked = [seed, choice]
    if modality == "text":
        asked += [ColSpec(DataType.string, name, required=False) for name in ("history", "stop")]
    if has_controls:
        asked.append(ColSpec(DataType.string, "controls", required=False))
    return ModelSignature(inputs=Schema(asked), outputs=Schema([seed, choice, content]))


def _public_version(package: str) -> str:
    """The installed version without a build's local mark such as +cu130."""
    try:
        return installed_version(package).partition("+")[0]
    except PackageNotFoundError:
        return __version__
