"""A model that answers HTTP calls, loaded from a verified folder."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import JSONResponse, Response

from aigc_ops.compute.devices import DeviceName, choose_device
from aigc_ops.core.artifacts import file_digest
from aigc_ops.core.atomic_dirs import MANIFEST
from aigc_ops.core.errors import ConfigError, ModelError
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.modality import Modality
from aigc_ops.interfaces.model import Generative
from aigc_ops.interfaces.request import Control, SampleRequest
from aigc_ops.sampling.metadata import ModelRef, sample_metadata
from aigc_ops.sampling.sampler import generate, requests
from aigc_ops.serving.api.native import Call, call_type
from aigc_ops.storage.checkpoints import load_model

SETTING_VARIABLES = {"device": "AIGC_OPS_DEVICE", "max_num": "AIGC_OPS_MAX_NUM"}


class Settings(BaseModel):
    """Settings of a service, given by environment variables."""

    model_config = ConfigDict(frozen=True)

    device: DeviceName = "auto"
    # One call blocks all others, so its size is bounded.
    max_num: int = Field(default=64, ge=1, le=100_000)


def read_settings() -> Settings:
    """Return the settings; raises ConfigError naming the environment variable at fault."""
    values = {
        field: os.environ[variable]
        for field, variable in SETTING_VARIABLES.items()
        if variable in os.environ
    }
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        # Report the variable: its field's name is unknown to the operator.
        [problem, *_] = error.errors()
        variable = SETTING_VARIABLES[str(problem["loc"][0])]
        raise ConfigError(f"{variable}={problem['input']}: {problem['msg']}") from error
    choose_device(settings.device)  # raises ConfigError for a device that is absent
    return settings


@dataclass(frozen=True)
class ServedModel:
    """A loaded model with its name, version and limits."""

    model: Generative[Any]
    name: str
    version: str
    manifest_digest: str
    max_num: int

    @property
    def controls(self) -> Mapping[str, Control]:
        return self.model.controls()

    @cached_property
    def call_type(self) -> type[Call]:
        return call_type(self.modality.requests.fields)

    @property
    def media_type(self) -> str:
        return self.modality.samples.media_type

    @property
    def modality(self) -> Modality[Any]:
        return find_modality(self.model.modality)

    def build_requests(self, call: Call) -> list[SampleRequest]:
        """Return the requests of a call; raises ModelError if the model cannot serve one."""
        return requests(
            self.model,
            call.num,
            seed=call.seed,
            conditions=self.modality.requests.from_call(call),
            controls=call.controls,
            max_num=self.max_num,
        )

    def respond(self, requests: Sequence[SampleRequest]) -> Response:
        """Generate the samples: a single one as its media type, several as JSON with seeds."""
        samples, codec = generate(self.model, requests), self.modality.samples
        encoded = [
            codec.encode(sample, sample_metadata(self.modality, self._model_ref(), request))
            for sample, request in zip(samples, requests, strict=True)
        ]
        if len(encoded) == 1:
            response = Response(encoded[0], media_type=codec.media_type)
        else:
            response = JSONResponse({codec.json_names: self._entries(encoded, requests)})
        # The first request's headers: its seed, given again with `num`, repeats the whole call.
        response.headers.update(self._headers(requests[0]))
        return response

    def _entries(
        self, encoded: Sequence[bytes], requests: Sequence[SampleRequest]
    ) -> list[dict[str, Any]]:
        codec = self.modality.samples
        repeated = [each for each in self.modality.requests.conditions if each.is_in_answers]
        return [
            {
                codec.json_name: codec.json_value(content),
                "seed": request.seed,
                **{condition.name: condition.of(request) for condition in repeated},
            }
            for content, request in zip(encoded, requests, strict=True)
        ]

    def stream(self, requests: Sequence[SampleRequest]) -> tuple[Iterator[str], Mapping[str, str]]:
        """Return the pieces of one text and the response's headers.

        Raises ModelError for a model that cannot stream.
        """
        (request,) = requests
        # Checked here: once the response has begun, its status can no longer be an error.
        if not self.model.can_stream:
            raise ModelError(f"this model cannot stream {self.modality.unit}; leave stream out")
        return self.model.stream(request), self._headers(request)

    def _model_ref(self) -> ModelRef:
        """Return the model's part of the metadata embedded in samples."""
        # A model folder that was never registered has a version such as "unregistered", no URI.
        is_registered = self.version.isdecimal()
        uri = f"models:/{self.name}/{self.version}" if is_registered else None
        return ModelRef(model=uri, manifest_digest=self.manifest_digest)

    def _headers(self, first: SampleRequest) -> dict[str, str]:
        # Headers are Latin-1 and end at a line break, and names may hold any character.
        headers = {
            "X-AIGC-Model": quote(self.name),
            "X-AIGC-Version": quote(self.version),
            "X-AIGC-Manifest": self.manifest_digest,
            "X-AIGC-Seed": str(first.seed),
            "X-Content-Type-Options": "nosniff",
        }
        for condition in self.modality.requests.conditions:
            value = condition.of(first)
            content = None if value is None else condition.header(value)
            if content is not None:
                headers[f"X-AIGC-{condition.name.capitalize()}"] = content
        if first.controls:
            headers["X-AIGC-Controls"] = json.dumps(first.controls)
        return headers


def load_served(folder: Path, *, name: str, version: str, expected: str | None) -> ServedModel:
    """Load the model of a folder, verified by the `expected` manifest digest.

    `AIGC_OPS_DEVICE` (default: auto) is the device, and `AIGC_OPS_MAX_NUM` (default: 64) the
    maximum number of samples per call.
    """
    settings = read_settings()  # before the weights are read, which takes longer
    return ServedModel(
        model=load_model(folder, expected=expected).to(choose_device(settings.device)),
        name=name,
        version=version,
        manifest_digest=file_digest(folder / MANIFEST),
        max_num=settings.max_num,
    )
