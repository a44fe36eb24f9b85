"""What Prefect may read back as a result: the nouns, as JSON.

A result file names the serializer that reads it, and Prefect believes the file: whoever can
write to the store could have a pickle loaded, or any name that can be imported called.
"""

import json
from typing import Any, NoReturn

from prefect.logging import get_run_logger
from prefect.serializers import JSONSerializer, PickleSerializer

from aigc_ops.artifacts import Noun
from aigc_ops.errors import CheckpointError
from aigc_ops.home import home


def accept_nouns_alone() -> None:
    """Have Prefect, in this process, read no pickles, and as JSON no class but a noun.

    A task whose kept result is refused runs again. Calling this twice changes nothing.
    """
    # Not the registry of serializers: those that compress hold these two as they are.
    PickleSerializer.loads = _refuse  # type: ignore[method-assign, assignment]
    JSONSerializer.loads = _read  # type: ignore[method-assign, assignment]


def _refuse(*_: object) -> NoReturn:
    raise _unfit("is a pickle, which could run code")


def _read(_: JSONSerializer[Any], blob: bytes) -> Any:
    return json.loads(blob, object_hook=_noun)


def _noun(found: dict[str, Any]) -> Any:
    if "__class__" not in found:
        return found
    name = found["__class__"]
    kinds = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in Noun.__subclasses__()}
    if name not in kinds:
        raise _unfit(f"holds a {name}")
    return kinds[name].model_validate(found["data"])


def _unfit(what: str) -> CheckpointError:
    storage = home() / "prefect" / "storage"
    error = CheckpointError(f"a result kept in {storage} {what}; no flow of these wrote it so")
    get_run_logger().warning("%s: it is made again, and look who else writes there", error)
    return error
