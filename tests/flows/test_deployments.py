from pathlib import Path

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


def test_prefect_yaml_is_what_the_families_generate():
    written = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    assert written == deployments.entrypoints()


def test_the_entrypoints_of_prefect_yaml_lead_to_the_flows():
    for deployment in deployments.entrypoints()["deployments"]:
        path, name = deployment["entrypoint"].split(":")
        assert Path(ROOT / path).is_file()
        assert isinstance(getattr(deployments, name), Flow)
        assert not any(schedule["active"] for schedule in deployment["schedules"])
