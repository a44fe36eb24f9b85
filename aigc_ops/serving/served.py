"""A model that answers calls: loaded from a verified folder, encoding what it draws."""

import base64
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import JSONResponse, Response
from torch import Tensor

from aigc_ops.artifacts import file_digest
from aigc_ops.checkpoints import load_model
from aigc_ops.devices import DeviceName, choose_device
from aigc_ops.errors import ConfigError, ModelError
from aigc_ops.folders import MANIFEST
from aigc_ops.generative import Generative, TextModel
from aigc_ops.origin import Origin, png_info
from aigc_ops.sample_request import Control, Message, SampleRequest
from aigc_ops.sampling import draw, png_bytes, requests
from aigc_ops.serving.endpoint import Call

SETTING_VARIABLES = {"device": "AIGC_OPS_DEVICE", "max_num": "AIGC_OPS_MAX_NUM"}


class Settings(BaseModel):
    """What the operator of a service may set by environment variables."""

    model_config = ConfigDict(frozen=True)

    device: DeviceName = "auto"
    max_num: int = Field(default=64, ge=1, le=100_000)


def read_settings() -> Settings:
    """The operator's settings; raises ConfigError naming the variable that does not fit."""
    values = {
        field: os.environ[variable]
        for field, variable in SETTING_VARIABLES.items()
        if variable in os.environ
    }
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        [problem, *_] = error.errors()
        variable = SETTING_VARIABLES[str(problem["loc"][0])]
        raise ConfigError(f"{variable}={problem['input']}: {problem['msg']}") from error
    choose_device(settings.device)
    return settings


@dataclass(frozen=True)
class ServedModel:
    """A loaded model with the name, version and limit under which it answers."""

    model: Generative
    name: str
    version: str
    manifest_digest: str
    max_num: int

    @property
    def controls(self) -> Mapping[str, Control]:
        return self.model.controls()

    def asked(self, call: Call) -> list[SampleRequest]:
        """The samples of one call; raises ModelError for what it cannot serve."""
        messages = [Message(turn.role, turn.content) for turn in call.messages]
        return requests(
            self.model,
            call.num,
            seed=call.seed,
            label=call.label,
            prompt=messages.pop().text if messages else call.prompt,
            history=messages,
            stop=call.stop,
            controls=call.controls,
            max_num=self.max_num,
        )

    def answer(self, asked: Sequence[SampleRequest]) -> Response:
        """The samples of one call, encoded."""
        samples = draw(self.model, asked)
        if isinstance(samples, Tensor):
            response = _images_response(samples, asked, self._origin())
        else:
            response = _texts_response(samples, asked)
        response.headers.update(self._headers(asked[0]))
        return response

    def stream(self, asked: Sequence[SampleRequest]) -> tuple[Iterator[str], Mapping[str, str]]:
        """The pieces of one text and the answer's headers; ModelError for other models."""
        if not isinstance(self.model, TextModel):
            raise ModelError("this model draws images; leave stream out")
        (one,) = asked
        return self.model.stream(one), self._headers(one)

    def _origin(self) -> Origin:
        """What an image tells of the model; a folder that was never registered has no URI."""
        is_registered = self.version.isdecimal()
        uri = f"models:/{self.name}/{self.version}" if is_registered else None
        return Origin(model=uri, manifest_digest=self.manifest_digest)

    def _headers(self, first: SampleRequest) -> dict[str, str]:
        headers = {
            "X-AIGC-Model": quote(self.name),
            "X-AIGC-Version": quote(self.version),
            "X-AIGC-Manifest": self.manifest_digest,
            "X-AIGC-Seed": str(first.seed),
            "X-Content-Type-Options": "nosniff",
        }
        if first.label is not None:
            headers["X-AIGC-Label"] = str(first.label)
        if first.controls:
            headers["X-AIGC-Controls"] = json.dumps(first.controls)
        return headers


def load_served(folder: Path, *, name: str, version: str, expected: str | None) -> ServedModel:
    """The model of a verified folder, on `AIGC_OPS_DEVICE` (auto).

    `AIGC_OPS_MAX_NUM` (64) bounds the samples of one call.
    """
    settings = read_settings()
    return ServedModel(
        model=load_model(folder, expected=expected).to(choose_device(settings.device)),
        name=name,
        version=version,
        manifest_digest=file_digest(folder / MANIFEST),
        max_num=settings.max_num,
    )


def _images_response(images: Tensor, asked: Sequence[SampleRequest], origin: Origin) -> Response:
    """One image as PNG; several as JSON with each one's seed and label. Each tells its origin."""
    encoded = [
        png_bytes(image, png_info(origin, each)) for image, each in zip(images, asked, strict=True)
    ]
    if len(encoded) == 1:
        return Response(encoded[0], media_type="image/png")
    entries = [
        {"image": base64.b64encode(png).decode(), "seed": each.seed, "label": each.label}
        for png, each in zip(encoded, asked, strict=True)
    ]
    return JSONResponse({"images": entries})


def _texts_response(texts: Sequence[str], asked: Sequence[SampleRequest]) -> Response:
    """One text as it is; several as JSON with each one's seed."""
    if len(texts) == 1:
        return Response(texts[0].encode(), media_type="text/plain; charset=utf-8")
    entries = [{"text": text, "seed": each.seed} for text, each in zip(texts, asked, strict=True)]
    return JSONResponse({"texts": entries})
