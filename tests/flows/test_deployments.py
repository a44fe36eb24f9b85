from pathlib import Path

import pytest
import yaml
from prefect import Flow

from aigc_ops.models import family_names
from flows import deployments
from tests.conftest import ROOT


def test_every_discovered_family_is_a_flow_with_its_own_typed_form():
    for family in family_names():
        flow = getattr(deployments, family)
        assert isinstance(flow, Flow)
        schema = flow.parameters.model_dump()
        assert f"RunConfig_{family.capitalize()}Config_" in schema["definitions"]
        assert "config" not in schema["required"], "the form starts from a ready-made config"


def test_a_half_written_config_leaves_the_others_as_they_are(tmp_path, monkeypatch):
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "a-draft.yaml").touch()
    (configs / "b-draft.yaml").write_text("data: {path: d}\nmodel: {family: gan, latent_dm: 3}")
    (configs / "c.yaml").write_text("data: {path: d}\nmodel: {family: gan}")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="an invalid config is not used") as warned:
        pipeline = deployments.pipeline_of("gan")
    assert len(warned) == 2
    assert "config" not in pipeline.parameters.model_dump()["required"]


def test_prefect_yaml_is_what_the_families_generate():
    assert (ROOT / "prefect.yaml").read_text() == deployments.prefect_yaml_of(ROOT)


def test_the_entrypoints_of_prefect_yaml_lead_to_the_flows():
    for deployment in yaml.safe_load(deployments.prefect_yaml_of(ROOT))["deployments"]:
        path, name = deployment["entrypoint"].split(":")
        assert Path(ROOT / path).is_file()
        assert isinstance(getattr(deployments, name), Flow)
        assert not any(schedule["active"] for schedule in deployment["schedules"])


@pytest.mark.parametrize("name", deployments.FLOWS)
def test_a_form_says_what_each_field_is(name):
    fields = deployments.FLOWS[name].parameters.model_dump()["properties"]
    assert fields
    assert all(field.get("description") for field in fields.values())
