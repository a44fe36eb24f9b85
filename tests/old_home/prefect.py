"""What the tests and the making of the old home ask of a Prefect server."""

import json
import re
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.conftest import eventually

ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Api:
    """Prefect's HTTP API at a server."""

    def __init__(self, server: str) -> None:
        self.server = server

    def call(self, path: str, body: Any = None) -> Any:
        """The JSON answer; a server that is busy (503) is asked again."""
        data = None if body is None else json.dumps(body).encode()
        url, headers = f"{self.server}/api/{path}", {"content-type": "application/json"}

        def answered() -> Any:
            try:
                with urlopen(Request(url, data, headers), timeout=30) as answer:
                    return [json.loads(answer.read() or b"null")]
            except HTTPError as error:
                if error.code != 503:
                    raise
            return None

        return eventually(answered)[0]

    def deployments(self) -> dict[str, Any]:
        """What the server offers, by the flow's own tag."""
        return {each["tags"][-1]: each for each in self.call("deployments/filter", {})}

    def flow_run(self, run: str) -> Any:
        return self.call(f"flow_runs/{run}")

    def named(self, name: str) -> list[Any]:
        """Flow runs of a name."""
        wanted = {"flow_runs": {"name": {"any_": [name]}}}
        return list(self.call("flow_runs/filter", wanted))

    def task_runs(self, run: str) -> list[Any]:
        wanted = {"flow_runs": {"id": {"any_": [run]}}, "sort": "EXPECTED_START_TIME_ASC"}
        return list(self.call("task_runs/filter", wanted))

    def suspended(self, name: str, *, key: str = "decision-0") -> str:
        """The flow run of this name once it waits for the answer of this key."""

        def waits() -> str | None:
            for run in self.named(name):
                assert run["state_type"] not in ENDED, run["state"]
                keyset = run["state"]["state_details"].get("run_input_keyset") or {}
                if run["state_type"] == "PAUSED" and key in json.dumps(keyset):
                    return str(run["id"])
            return None

        return str(eventually(waits, seconds=300))

    def ended(self, run: str, *states: str) -> Any:
        """The flow run once it has ended, in one of these states."""

        def has_ended() -> Any:
            found = self.flow_run(run)
            return found if found["state_type"] in ENDED else None

        found = eventually(has_ended, seconds=300)
        assert found["state_type"] in states, found["state"]
        return found

    def packet_shown(self, run: str) -> str:
        """Digest of the packet that the form of a suspended run shows."""
        keyset = self.flow_run(run)["state"]["state_details"]["run_input_keyset"]
        described = json.dumps(self.call(f"flow_runs/{run}/input/{keyset['description']}"))
        [digest] = re.findall(r"Packet `([0-9a-f]{64})`", described)
        return str(digest)

    def resume(self, run: str, form: dict[str, str]) -> Any:
        """Send the form of a suspended run; what the server says."""
        return self.call(f"flow_runs/{run}/resume", {"run_input": form})
