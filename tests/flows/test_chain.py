"""The whole chain as a person meets it: real processes, stores, servers and faults."""

import itertools
import json
import logging
import lzma
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from PIL import Image

from aigc_ops.core import prefect_http
from aigc_ops.core.artifacts import RunResult
from aigc_ops.core.state_dir import lock_state_dir
from tests.conftest import ROOT, eventually
from tests.flows.conftest import Workplace, ended

BLOCKED = "import sys; sys.modules.update(dict.fromkeys(['torch', 'prefect', 'bentoml']))\n"


def test_a_first_run_ends_with_a_champion_and_its_confirmed_bento(workplace, first):
    assert first["report"]["success"]
    assert first["dataset"]["image_shape"]["class_names"] == ["cat", "dog"]
    assert first["dataset"]["dvc_digest"] is None
    assert first["verdict"]["promoted"]
    assert first["verdict"]["champion"] == first["version"]
    assert first["bento"]["num_golden"] >= 2
    assert first["bento"]["max_levels_apart"] <= 1
    assert first["reused"] == []
    score = first["scores"]["values"]["fd_efficientnet_lite0"]
    assert score.keys() == {"value", "low", "high", "contract"}
    with Image.open(first["checkpoint"]["grid_uri"]) as grid:
        assert grid.format == "PNG"
    for left in ("json_uri", "html_uri"):
        assert Path(first["report"][left]).is_file()


def test_a_sample_and_a_bento_are_traced_to_data_decision_and_flow_run(console, first, tmp_path):
    console.run("sample", "models:/pets@champion", "--seed", 7, "--out", tmp_path / "one")
    for ref in (tmp_path / "one" / "00000.png", first["bento"]["tag"]):
        answer, _ = console.run("trace", ref)
        assert answer["broken"] == []
        links = {link["name"]: link for link in answer["links"]}
        assert links["version"]["details"]["manifest_digest"] == first["version"]["manifest_digest"]
        assert links["bento"]["details"]["tags"] == [first["bento"]["tag"]]
        assert links["decision"]["details"]["entries"][0]["gate"] == "promote"
        assert links["data"]["details"]["content_digest"] == first["dataset"]["content_digest"]
        told = {name: link["state"] for name, link in links.items() if link["state"] != "holds"}
        assert told == {"licences": "absent"}


def test_a_prefect_server_is_asked_for_the_flow_run(served, console, first, monkeypatch):
    answer, _ = console.run("trace", first["bento"]["tag"])
    [flow_run] = {link["name"]: link for link in answer["links"]}["flow run"]["details"][
        "flow_runs"
    ]
    monkeypatch.setenv("PREFECT_API_URL", served.server)
    assert prefect_http.get_json("health") is True
    assert prefect_http.get_json(f"flow_runs/{flow_run}")["state_name"] == "Completed"
    assert prefect_http.get_json(f"flow_runs/{uuid.uuid4()}") is None


def test_an_unchanged_rerun_is_decided_before_the_heavy_libraries_are_imported(workplace, first):
    code = BLOCKED + "from aigc_ops.__main__ import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", str(workplace.config), "--json"],
        cwd=ROOT,
        env=workplace.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["version"] == first["version"]
    assert answer["bento"] == first["bento"]
    assert answer["reused"] == list(RunResult.model_fields)[1:]


PAGE = {"samples", "scores", "model-card", "verdict", "review-packet", "bento"}
PAGE |= {f"mlflow-{what}" for what in ("model-version", "training-run", "evaluation")}


def shown(server: str) -> set[str]:
    """What the page of the server's newest flow run shows, by key."""

    def asked(what, body):
        url, headers = f"{server}/{what}/filter", {"content-type": "application/json"}
        with urlopen(Request(url, json.dumps(body).encode(), headers), timeout=10) as answer:
            return json.load(answer)

    [newest] = asked("flow_runs", {"sort": "START_TIME_DESC", "limit": 1})
    artifacts = asked("artifacts", {"flow_runs": {"id": {"any_": [newest["id"]]}}})
    return {each["key"].removeprefix("pets-") for each in artifacts if each["key"]}


def test_a_flow_run_that_reuses_an_earlier_run_shows_all_that_it_left(served, console, first):
    answer, _ = console.run("run", served.config, "--seed", 0)  # the same config in other words
    assert answer["version"] == first["version"]
    assert shown(served.server) == PAGE


class Malice:
    """Makes a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.slow
def test_a_kept_result_replaced_by_a_pickle_is_made_again_and_never_loaded(
    served, console, first, tmp_path
):
    console.run("run", served.config, "--seed", 0)
    loaded = tmp_path / "loaded"
    pickled = pickle.dumps(Malice(loaded))
    planted = {"type": "json", "object_decoder": "os.mkdir"}
    ways = itertools.cycle(
        [
            pickled,
            lzma.compress(pickled),
            json.dumps({"metadata": {"serializer": planted}, "result": str(loaded)}).encode(),
            json.dumps({"__class__": "pathlib.Path", "data": str(loaded)}).encode(),
        ]
    )
    kept = sorted((served.home / "stages").glob("*.json"))
    assert len(kept) >= 2, "validation and evaluation are kept"
    for _ in range(2):
        for path in kept:
            path.write_bytes(next(ways))
        answer, said = console.run("run", served.config, "--packaging.boot-timeout-seconds", 100)
        assert answer["version"] == first["version"]
        for path in kept:
            assert f"{path.name} is not a valid record" in said
        assert not loaded.exists()
        for record in (served.home / "runs").glob("*.json"):
            record.unlink()


def test_nothing_that_prefect_keeps_is_read_back(served, console, first, tmp_path):
    """Prefect reads a result by the serializer that its file names, a pickle too."""
    storage = served.home / "prefect" / "storage"
    kept = [path for path in storage.rglob("*") if path.is_file()] if storage.exists() else []
    assert not kept, kept


def test_a_champion_deleted_by_hand_is_made_again(served, console, first, monkeypatch):
    for variable, value in served.environment.items():
        monkeypatch.setenv(variable, value)
    from aigc_ops.registry.client import connect
    from aigc_ops.registry.versions import champion

    connect().delete_registered_model_alias("pets", "champion")
    assert champion("pets") is None
    answer, _ = console.run("run", served.config)
    assert answer["verdict"]["champion"] == first["version"]
    assert champion("pets").version == first["version"]["version"]
    assert shown(served.server) == PAGE, "though its first three stages were cached"


@pytest.mark.slow
def test_a_bento_deleted_by_hand_is_made_again(served, console, first):
    shutil.rmtree(first["bento"]["uri"])
    answer, _ = console.run("run", served.config)
    assert answer["bento"]["tag"] == first["bento"]["tag"]
    assert Path(answer["bento"]["uri"]).is_dir()


@pytest.mark.slow
def test_a_candidate_that_is_not_promoted_reports_the_champions_bento(served, console, first):
    answer, _ = console.run("run", served.config, "--seed", 1, "--promotion.min-improvement", 0.99)
    assert not answer["verdict"]["promoted"]
    assert answer["verdict"]["alias"] is None
    assert answer["verdict"]["champion"] == first["version"]
    assert answer["bento"]["tag"] == first["bento"]["tag"]


def test_a_person_decides_where_the_config_asks_for_a_review(workplace, console, first):
    answer, _ = console.run("run", workplace.config, "--seed", 3, "--promotion.approval", "review")
    version = answer["version"]["version"]
    assert not answer["verdict"]["promoted"]
    packet, _ = console.run("review", "pets", version)
    assert packet["packet_digest"] == answer["verdict"]["packet_digest"]
    assert Path(packet["page"]).stat().st_size < 10e6
    decide = ("approve", "pets", version, "--reviewer", "Ann", "--reason")
    _, said = console.run(*decide, " ", code=1)
    assert "the reason is empty" in said
    _, said = console.run(*decide, "better", "--packet", "0" * 64, code=1)
    assert "is stale" in said
    approved, _ = console.run(*decide, "better")
    assert approved["champion"]["version"] == version
    _, said = console.run(*decide, "again", code=1)
    assert "is the champion already" in said
    back, _ = console.run("rollback", "pets", "--reviewer", "Ann", "--reason", "blurred")
    assert back["after"]["champion"] == first["version"]["version"]
    assert back["bento"]["tag"] == first["bento"]["tag"]
    listed, _ = console.run("models")
    assert {row["version"]: row["aliases"] for row in listed["models"]}[version] == ["previous"]


def test_samples_are_numbered_pngs_with_a_line_each_and_repeat_by_seed(console, first, tmp_path):
    model = "models:/pets@champion"
    console.run("sample", model, "--num", 5, "--seed", 7, "--out", tmp_path / "five")
    names = sorted(p.name for p in (tmp_path / "five").iterdir())
    assert names == [*(f"{i:05d}.png" for i in range(5)), "samples.jsonl"]
    lines = (tmp_path / "five" / "samples.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["file"] for row in rows] == names[:5]
    assert [row["label"] for row in rows] == [0, 1, 0, 1, 0]
    last = rows[3]
    console.run(
        *("sample", model, "--seed", last["seed"], "--label", "dog"),
        *("--out", tmp_path / "one"),
    )
    with (
        Image.open(tmp_path / "one" / "00000.png") as again,
        Image.open(tmp_path / "five" / "00003.png") as before,
    ):
        assert again.size == (16, 16)
        pairs = zip(again.tobytes(), before.tobytes(), strict=True)
        assert max(abs(a - b) for a, b in pairs) <= 1


def test_a_control_is_set_from_the_command_line_and_told_in_each_line(console, first, tmp_path):
    model = "models:/pets@champion"
    console.run("sample", model, "--num", 2, "--set", "truncation=0", "--out", tmp_path / "out")
    lines = (tmp_path / "out" / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["controls"] for line in lines] == [{"truncation": 0}] * 2


def test_each_stage_runs_alone_on_what_the_one_before_it_left(workplace, console, first):
    checkpoint = first["checkpoint"]["uri"]
    report, _ = console.run("validate", workplace.config)
    assert report["success"]
    trained, _ = console.run("train", workplace.config)
    assert trained["uri"] == checkpoint
    scores, _ = console.run("evaluate", checkpoint)
    assert scores["values"].keys() == first["scores"]["values"].keys()
    version, _ = console.run("register", checkpoint)
    assert version["version"] == first["version"]["version"]
    for model in (version["uri"], checkpoint):
        verdict, _ = console.run("promote", model)
        assert verdict["alias"] == "champion"
    bento, _ = console.run("package", checkpoint)
    assert bento["tag"] == first["bento"]["tag"]
    listed, _ = console.run("models")
    assert {"champion"} <= {alias for row in listed["models"] for alias in row["aliases"]}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "configs/absent.yaml"], 2, "no such config file"),
        (["run", "CONFIG", "--training.stesp", "3"], 2, "did you mean --training.steps"),
        (["run", "CONFIG", "--training.steps", "many"], 2, "training.steps"),
        (["run", "CONFIG", "--data.path", "absent"], 1, "absent does not exist"),
        (["evaluate", "models:/nobody@champion"], 1, "nobody"),
        (
            ["sample", "models:/pets@champion", "--label", "9", "--out", "out"],
            1,
            "0 (cat), 1 (dog)",
        ),
        (["sample", "models:/pets@champion", "--num", "-1", "--out", "out"], 1, "num is -1"),
        (
            ["sample", "models:/pets@champion", "--set", "slant=1", "--out", "out"],
            1,
            "choose from truncation (0 to 4)",
        ),
        (["sample", "models:/pets@champion", "--set", "truncation=9", "--out", "out"], 1, "0 to 4"),
        (
            ["sample", "models:/pets@champion", "--set", "truncation", "--out", "out"],
            2,
            "expected NAME=NUMBER",
        ),
        (["promote", "models:/../x/1"], 1, "not a model URI"),
    ],
)
def test_mistakes_are_answered_with_a_message_and_an_exit_code(
    workplace, console, first, arguments, code, message
):
    arguments = [str(workplace.config) if word == "CONFIG" else word for word in arguments]
    answer, said = console.run(*arguments, code=code)
    assert message in answer["error"]
    assert "Traceback" not in said


def test_bad_data_ends_the_run_and_names_the_row(served, console, first, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(served.config.parent / "images", images)
    (images / "cat" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot an image")
    answer, said = console.run("run", served.config, "--data.path", images, code=1)
    assert "cat/broken.png" in answer["error"]
    assert "Traceback" not in said
    assert said.count("cat/broken.png") == 1
    in_the_ui = "cat/broken.png"
    eventually(lambda: any(in_the_ui in line for line in logged(served.server)), seconds=30)


def logged(server: str) -> list[str]:
    """The lines in the server's log that tell of errors."""
    body = {"logs": {"level": {"ge_": logging.ERROR}}}
    request = Request(
        f"{server}/logs/filter", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urlopen(request, timeout=10) as answer:
        return [line["message"] for line in json.load(answer)]


def test_a_stage_alone_waits_for_the_home_and_a_mistake_in_a_config_does_not(
    workplace, console, first, monkeypatch
):
    monkeypatch.setenv("AIGC_OPS_HOME", str(workplace.home))
    with lock_state_dir(pytest.fail):
        train = workplace.start("train", workplace.config)
        said = next(line for line in train.stderr if "waiting for" in line)
        assert f"process {os.getpid()}, which holds the state directory" in said
        answer, _ = console.run("run", workplace.config, "--training.stesp", 3, code=2)
        assert "--training.steps" in answer["error"]
        assert train.poll() is None
    ended(train)
    assert train.returncode == 0


@pytest.mark.slow
def test_two_runs_at_once_on_one_home_queue(served, console, first):
    flags = ("--packaging.enabled", "false")
    one = served.start("run", served.config, "--seed", 11, *flags, "--json")
    holds = f"process {one.pid}"
    eventually(lambda: (served.home / "holder").read_text() == holds)
    other, said = console.run("run", served.config, "--seed", 12, *flags)
    assert f"waiting for {holds}, which holds the state directory" in said
    printed, said = ended(one)
    assert one.returncode == 0, said
    assert json.loads(printed)["version"]["version"] != other["version"]["version"]


@pytest.mark.slow
def test_a_run_stopped_twice_in_mid_training_goes_on_where_it_was(
    served: Workplace, console, first
):
    flags = (
        *("--training.steps", 200, "--training.checkpoint-every", 10),
        *("--seed", 2, "--packaging.enabled", "false"),
    )
    others = set(served.home.glob("checkpoints/*"))

    def newest() -> str:
        """The newest checkpoint's name; empty before the first."""
        mine = set(served.home.glob("checkpoints/*")) - others
        return max((step.name for folder in mine for step in folder.glob("step-*")), default="")

    for how in (signal.SIGKILL, signal.SIGINT):
        kept = newest()
        process = served.start("run", served.config, *flags, "--json")
        deadline = time.monotonic() + 120
        while newest() == kept and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(how)
        printed, _ = ended(process, seconds=60)
        assert process.returncode == (130 if how == signal.SIGINT else -how)
        assert kept < newest() < "step-00000200"
    assert "repeat the command to resume" in json.loads(printed)["error"]
    answer, said = console.run("run", served.config, *flags)
    assert "resumed after step" in said
    assert answer["checkpoint"]["step"] == 200
    listed, _ = console.run("models")
    digests = [row["version"] for row in listed["models"]]
    assert len(digests) == len(set(digests))
