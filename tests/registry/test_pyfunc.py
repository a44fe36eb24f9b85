"""Registered models through MLflow's own loader."""

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from aigc_ops.core.artifacts import Checkpoint
from aigc_ops.core.errors import CheckpointError, ModelError
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.request import Message, SampleRequest
from aigc_ops.registry.client import connect
from aigc_ops.registry.pyfunc import SamplingFunction
from aigc_ops.registry.registration import register
from aigc_ops.registry.resolution import STORED_FOLDER, resolve
from aigc_ops.sampling.sampler import generate
from aigc_ops.storage.checkpoints import load_model
from tests.registry.conftest import MakeCheckpoint, crown, scores_of, stored_models

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")

PLAIN_CLIENT = """
import base64, json, mlflow, pandas
model = mlflow.pyfunc.load_model("models:/digits@champion")
table = model.predict(pandas.DataFrame({"seed": [3, 4], "label": [2, 1]}))
table["image"] = [base64.b64encode(image).decode() for image in table["image"]]
print(json.dumps(table.to_dict("list")))
"""


def test_a_plain_mlflow_client_samples_the_champion_without_a_word_of_complaint(
    make_checkpoint: MakeCheckpoint, store: Path, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint()
    crown(register(checkpoint, scores_of(checkpoint, 9), name="digits"))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AIGC_OPS_", "MLFLOW_"))}
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_CLIENT],
        env={**kept, "MLFLOW_TRACKING_URI": f"sqlite:///{store}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    answer = json.loads(done.stdout)
    asked = [SampleRequest(3, {"label": 2}), SampleRequest(4, {"label": 1})]
    expected = generate(load_model(Path(checkpoint.uri)), asked)
    assert isinstance(expected, torch.Tensor)
    assert answer["seed"] == [3, 4]
    assert answer["label"] == [2, 1]
    assert [base64.b64decode(image) for image in answer["image"]] == [
        find_modality("image").samples.encode(image) for image in expected
    ]
    assert not (tmp_path / ".aigc_ops").exists()


def test_the_signature_states_the_columns(make_checkpoint: MakeCheckpoint) -> None:
    import mlflow

    register(make_checkpoint(), None, name="digits")
    connect()
    signature = mlflow.models.get_model_info("models:/digits/1").signature
    assert signature is not None
    inputs = [(column.name, column.required) for column in signature.inputs]
    assert inputs == [("seed", True), ("label", False), ("controls", False)]
    assert signature.outputs.input_names() == ["seed", "label", "image"]


def test_texts_answer_prompts_row_by_row(gpt_checkpoint: Checkpoint) -> None:
    import mlflow

    register(gpt_checkpoint, None, name="talk")
    model = mlflow.pyfunc.load_model("models:/talk/1")
    table = model.predict(pd.DataFrame({"seed": [3, 4], "prompt": ["one?", None]}))
    asked = [SampleRequest(3, {"prompt": "one?"}), SampleRequest(4)]
    assert list(table["text"]) == generate(load_model(Path(gpt_checkpoint.uri)), asked)
    assert list(table["prompt"]) == ["one?", None]


def test_controls_are_set_row_by_row_through_mlflows_own_checks(
    make_checkpoint: MakeCheckpoint,
) -> None:
    import mlflow

    checkpoint = make_checkpoint()
    register(checkpoint, None, name="digits")
    connect()
    info = mlflow.models.get_model_info("models:/digits/1")
    assert info.metadata["controls"]["truncation"].startswith("0 to 4: ")
    rows = {"seed": [3, 3], "label": [1, 1], "controls": ['{"truncation": 0}', None]}
    table = mlflow.pyfunc.load_model("models:/digits/1").predict(pd.DataFrame(rows))
    asked = [SampleRequest(3, {"label": 1}, {"truncation": 0}), SampleRequest(3, {"label": 1})]
    images = generate(load_model(Path(checkpoint.uri)), asked)
    assert list(table["image"]) == [
        find_modality("image").samples.encode(image) for image in images
    ]
    assert table["image"][0] != table["image"][1]


def test_a_text_model_is_asked_by_prompt_and_controls(gpt_checkpoint: Checkpoint) -> None:
    import mlflow

    register(gpt_checkpoint, None, name="talk")
    connect()
    info = mlflow.models.get_model_info("models:/talk/1")
    columns = ["seed", "prompt", "history", "stop", "controls"]
    assert info.signature.inputs.input_names() == columns
    assert info.signature.inputs.required_input_names() == ["seed"]
    assert "temperature" in info.metadata["controls"]


def test_a_conversation_is_answered_and_ends_before_a_stop_string(
    gpt_checkpoint: Checkpoint,
) -> None:
    import mlflow

    register(gpt_checkpoint, None, name="talk")
    model = load_model(Path(gpt_checkpoint.uri))
    history = (Message("user", "one?"), Message("assistant", "two"))
    asked = SampleRequest(3, {"prompt": "three?", "history": history})
    (whole,) = generate(model, [asked])
    turns = json.dumps([{"role": m.role, "content": m.text} for m in history])
    rows = {"seed": [3] * 3, "prompt": ["three?"] * 3, "history": [turns, turns, None]}
    rows["stop"] = [None, json.dumps([whole[2]]), "[]"]
    table = mlflow.pyfunc.load_model("models:/talk/1").predict(pd.DataFrame(rows))
    (alone,) = generate(model, [SampleRequest(3, {"prompt": "three?"})])
    assert list(table["text"]) == [whole, whole[: whole.index(whole[2])], alone]
    assert whole != alone


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"history": "hello"}, "row 0: history is .hello.; give a JSON list of objects"),
        ({"history": '[{"role": "tool", "content": "x"}]'}, r"role \(system, user, assistant\)"),
        ({"history": '[{"role": "user"}]'}, "give a JSON list of objects with role"),
        ({"history": '[{"role": "user", "content": "x"}]'}, "add the assistant's answer"),
        ({"stop": "end"}, "row 0: stop is .end.; give a JSON list"),
        ({"stop": '[""]'}, "a stop string is empty"),
    ],
)
def test_conversations_that_are_none_are_refused(
    row: dict[str, str], message: str, gpt_checkpoint: Checkpoint
) -> None:
    function = SamplingFunction(load_model(Path(gpt_checkpoint.uri)))
    with pytest.raises(ModelError, match=message):
        function.predict(pd.DataFrame([{"seed": 1, "prompt": "Who?", **row}]))


def test_rows_without_a_label_go_round_the_classes(make_checkpoint: MakeCheckpoint) -> None:
    function = SamplingFunction(load_model(Path(make_checkpoint().uri)))
    table = function.predict(pd.DataFrame({"seed": range(4)}, index=[5, 6, 7, 8]))
    assert list(table["label"]) == [0, 1, 2, 0]
    assert list(table.index) == [5, 6, 7, 8]
    with Image.open(io.BytesIO(table["image"][5])) as picture:
        assert picture.size == (8, 8)
    mixed = function.predict(pd.DataFrame({"seed": [0, 1], "label": [2, None]}))
    assert list(mixed["label"]) == [2, 1]


def test_no_rows_give_no_rows(make_checkpoint: MakeCheckpoint) -> None:
    function = SamplingFunction(load_model(Path(make_checkpoint().uri)))
    table = function.predict(pd.DataFrame({"seed": []}))
    assert list(table.columns) == ["seed", "label", "image"]
    assert len(table) == 0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": 1}, "expected a column seed, found label"),
        ({"seed": None}, "row 0 has no seed"),
        ({"seed": -1}, "row 0 has seed -1"),
        ({"seed": 1.5}, r"row 0 has seed 1\.5"),
        ({"seed": 1, "label": 3}, r"label 3 is outside 0\.\.2"),
        ({"seed": 1, "prompt": "hi"}, "takes no prompt"),
        ({"seed": 1, "controls": "truncation=1"}, "row 0 has controls 'truncation=1'; give a JSON"),
        ({"seed": 1, "controls": "[1]"}, "give a JSON object of numbers"),
        ({"seed": 1, "controls": '{"truncation": "1"}'}, "give a JSON object of numbers"),
        ({"seed": 1, "controls": '{"truncation": true}'}, "give a JSON object of numbers"),
        ({"seed": 1, "controls": '{"truncation": 5}'}, "truncation is 5; give 0 to 4"),
        ({"seed": 1, "controls": '{"slant": 1}'}, "'slant' is not a control"),
    ],
)
def test_rows_that_the_model_cannot_serve_are_refused(
    row: dict[str, object], message: str, make_checkpoint: MakeCheckpoint
) -> None:
    function = SamplingFunction(load_model(Path(make_checkpoint().uri)))
    with pytest.raises(ModelError, match=message):
        function.predict(pd.DataFrame([row]))


def test_weights_that_were_swapped_in_the_store_are_not_loaded(
    make_checkpoint: MakeCheckpoint, store: Path
) -> None:
    import mlflow

    register(make_checkpoint(0), None, name="digits")
    register(make_checkpoint(1), None, name="other")
    folders = {folder: (folder / "MLmodel").read_text() for folder in stored_models(store)}
    one, two = (folder / STORED_FOLDER for folder in folders)
    one.rename(one.with_name("kept"))
    two.rename(one)
    assert {resolve("models:/digits/1").family, resolve("models:/other/1").family} == {"gan"}
    swapped = "digits" if "digits" in (one.parent / "README.md").read_text() else "other"
    with pytest.raises(CheckpointError, match="manifest digest is"):
        mlflow.pyfunc.load_model(f"models:/{swapped}/1")
