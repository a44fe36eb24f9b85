from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from aigc_ops.cli.config_flags import control_values, help_text, parse_flags, type_with_defaults
from aigc_ops.core.artifacts import dotted
from aigc_ops.core.errors import ConfigError
from aigc_ops.models import family_names
from aigc_ops.pipeline.run_config import (
    RunConfig,
    field_paths,
    load_config,
    merged,
    read_yaml,
    run_config_type,
)
from tests.conftest import ROOT

SOUND = "data: {path: d}\nmodel: {family: gan}\n"
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_ready_made_config_is_valid_and_registers_under_its_own_name(path):
    assert load_config(path).name == path.stem


def test_a_config_that_rolls_back_leaves_its_watchdog_the_steps_to_do_so():
    trainings = [load_config(path).training for path in CONFIGS]
    rolling = [training for training in trainings if training.watch.action == "roll_back"]
    assert rolling
    for training in rolling:
        unhealthy = training.watch.every * training.watch.patience
        assert training.checkpoint_every + unhealthy < training.steps


def test_a_config_reads_back_from_its_own_json():
    config = load_config(ROOT / "configs" / "mnist-gan.yaml")
    assert type(config).model_validate(config.model_dump(mode="json")) == config
    assert type(config).model_validate_json(config.model_dump_json()) == config


def test_a_config_is_frozen():
    config = load_config(ROOT / "configs" / "smoke.yaml")
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {path: d}\nmodel: {family: gan, latent_dm: 3}", "latent_dm.*mean model.latent_dim"),
        (SOUND + "trainig: {}", r"trainig is not a field; did you mean training\?"),
        (SOUND + "validaton: {}", r"did you mean validation\?"),
        (SOUND + "evalution: {}", r"did you mean evaluation\?"),
        (SOUND + "promtion: {}", r"did you mean promotion\?"),
        (SOUND + "dat: {}", r"did you mean data\?"),
        (SOUND + "training: {wach: {}}", r"did you mean training.watch\?"),
        (SOUND + "xyz: 1", "the fields of this section are name, seed, data, validation, model"),
        (SOUND + "training: {latent_dim: 3}", "mean model.latent"),
        ("data: {path: d}\nmodel: {family: gna}", "did you mean gan"),
        ("data: {path: d}\nmodel: {famly: gan}", "unknown key famly, did you mean family"),
        ("data: {path: d}\nmodle: {family: gan}", "unknown key modle, did you mean model"),
        ("data: {path: d}\nmodel: {}", "model.family is None.*gan"),
        (
            "data: {path: d}\nmodel: {family: gan}\ntraining: {steps: many}",
            "training.steps.*'many'",
        ),
        (
            "data: {path: d}\nmodel: {family: gan}\ntraining: {steps: 0}",
            "training.steps: .*greater",
        ),
        (SOUND + "training: {steps: 1.5}", "training.steps"),
        ("model: {family: gan}", "data: field required"),
        (SOUND + "name: ../up", "name: .*pattern"),
        (SOUND + 'training: {init_from: "a\\0b"}', "training.init_from: .*pattern"),
        ("- a\n- b", "expected a mapping"),
        ("data: [", "not readable as YAML"),
    ],
)
def test_what_is_wrong_in_a_config_is_named_with_its_path(text, message, tmp_path):
    with pytest.raises(ConfigError, match=f"(?s)mine.yaml.*{message}"):
        load_config(write(tmp_path, text))


def test_a_missing_config_is_answered_with_the_nearest_one(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=r"did you mean configs/mnist-gan\.yaml"):
        load_config(Path("configs/mnist_gan.yaml"))


def test_flags_override_the_file_leaf_by_leaf():
    kind = run_config_type("gan")
    flags = ["--training.steps=7", "--model.latent-dim=5", "--seed=3", "--model.critic.beta1=0.1"]
    config = load_config(ROOT / "configs" / "mnist-gan.yaml", parse_flags(kind, flags))
    assert (config.training.steps, config.model.latent_dim, config.seed) == (7, 5, 3)
    assert config.model.critic.beta1 == 0.1
    assert config.training.batch_size == 32


@pytest.mark.parametrize("family", family_names())
def test_every_leaf_of_every_family_is_a_flag_with_help(family):
    kind = run_config_type(family)
    for path in field_paths(kind):
        value = {"model.family": family}.get(path, "1")
        nested = parse_flags(kind, [f"--{path}={value}"])
        assert dotted(nested) in ({path: value}, {path: [1]}, {path: [value]})


def test_a_key_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("data:\n  path: a\ntraining:\n  steps: 2\ntraining:\n  steps: 3\n")
    with pytest.raises(ConfigError, match="duplicate key training"):
        load_config(path)
    path.write_text("a: &a {path: b}\ndata:\n  <<: *a\n  path: c\n")
    assert read_yaml(path)["data"] == {"path": "c"}


def test_help_shows_the_values_of_the_file_and_requires_nothing_that_it_gives():
    config = load_config(ROOT / "configs" / "mnist-vae.yaml")
    text = help_text("train", "", type_with_defaults(config), "")
    assert "(required)" not in text
    assert "--training.steps int  Optimisation steps. (default: 3000)" in text


@pytest.mark.parametrize(
    ("flags", "codes"),
    [(["10"], (10,)), (["10,2"], (10, 2)), (["10", "2"], (10, 2)), (["[10, 2]"], (10, 2))],
)
def test_several_values_are_given_in_one_flag_or_in_several(flags, codes):
    given = parse_flags(
        run_config_type("gan"), [f"--model.categorical_codes={each}" for each in flags]
    )
    config = load_config(ROOT / "configs" / "mnist-gan.yaml", given)
    assert config.model.categorical_codes == codes


@pytest.mark.parametrize("family", family_names())
def test_every_field_is_described(family):
    def undescribed(kind, prefix=""):
        for name, info in kind.model_fields.items():
            if name != "family" and not info.description:
                yield prefix + name
            if hasattr(info.annotation, "model_fields"):
                yield from undescribed(info.annotation, f"{prefix}{name}.")

    assert list(undescribed(run_config_type(family))) == []


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--model=gan", "--model is a section, not a field; give --model.family, "),
        ("--training.stesp=3", "--training.stesp is not a flag; did you mean --training.steps"),
        ("--latent-dim=3", "did you mean --model.latent-dim"),
        ("--validaton.min-train-rows=3", "did you mean --validation.min-train-rows"),
        ("--evalution={}", r"did you mean --evaluation\?"),
        ("stray", "unexpected argument 'stray'"),
    ],
)
def test_an_unknown_flag_is_answered_with_the_nearest_one(flag, message):
    with pytest.raises(ConfigError, match=message):
        parse_flags(run_config_type("gan"), [flag])


@pytest.mark.parametrize(
    "name", ["training.max_gradient_norm", "data.label_column", "data.image.size", "model.critic"]
)
def test_an_empty_value_is_none_where_the_field_may_be_empty(name):
    nested = parse_flags(run_config_type("gan"), [f"--{name}="])
    expected = {name: None} if name != "model.critic" else {name: ""}
    assert dotted(nested) == expected


def test_underscores_and_dashes_are_the_same_flag():
    kind = run_config_type("gan")
    assert parse_flags(kind, ["--model.latent_dim=3"]) == parse_flags(
        kind, ["--model.latent-dim=3"]
    )


def test_merging_keeps_what_is_not_overridden():
    base = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merged(base, {"a": {"b": 9}}) == {"a": {"b": 9, "c": 2}, "d": 3}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}


def test_the_form_of_each_family_is_concrete():
    for family in family_names():
        schema = run_config_type(family).model_json_schema()
        model = schema["$defs"][schema["properties"]["model"]["$ref"].rsplit("/", 1)[1]]
        assert model["properties"]["family"]["const"] == family


def test_the_generic_config_lists_the_stages_in_the_order_of_the_chain():
    names = list(RunConfig.model_fields)
    order = ["data", "validation", "model", "training", "evaluation", "promotion", "packaging"]
    assert [name for name in names if name in order] == order


def test_yaml_and_config_agree_on_names():
    for path in CONFIGS:
        values = yaml.safe_load(path.read_text())
        kind = run_config_type(values["model"]["family"])
        assert set(dotted(values)) <= set(field_paths(kind))


def test_controls_are_numbers_by_name():
    assert control_values(["truncation=0.7", "code_1=-2"]) == {"truncation": 0.7, "code_1": -2.0}
    assert control_values([]) == {}


@pytest.mark.parametrize("word", ["truncation", "truncation=", "truncation=much", "=", "help"])
def test_a_control_of_another_form_is_answered_with_the_form_expected(word):
    with pytest.raises(ConfigError, match=f"--set {word}: expected NAME=NUMBER"):
        control_values([word])


def test_a_control_set_twice_is_refused():
    with pytest.raises(ConfigError, match="truncation is set already"):
        control_values(["truncation=1", "truncation=2"])
