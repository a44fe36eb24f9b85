"""Serve a Bento or a model folder in the foreground, until Ctrl-C or SIGTERM."""

import errno
import ipaddress
import os
import socket
import sys
from pathlib import Path
from typing import NoReturn

from aigc_ops.core.artifacts import ModelVersion
from aigc_ops.core.errors import PackagingError
from aigc_ops.core.import_path import isolate
from aigc_ops.core.state_dir import export_environment
from aigc_ops.serving.bento.store import bento_store
from aigc_ops.serving.env_vars import MODEL_VARIABLE, NAME_VARIABLE, VERSION_VARIABLE

SERVICE = "aigc_ops.serving.runtime.service:Generation"


def serve(
    folder: Path,
    *,
    version: ModelVersion | None = None,
    host: str = "127.0.0.1",
    port: int = 3000,
) -> NoReturn:
    """Replace this process by a server of a Bento's folder (`BentoTag.uri`) or a model folder.

    `bentoml serve` ends with 0 after Ctrl-C or SIGTERM, once the calls in flight are answered.
    `version` is the version of a model folder, which clients see in headers. Raises
    PackagingError when the address or the folder cannot be used.
    """
    # 1. The environment of the server. `isolate` keeps the working folder off its import path.
    export_environment()
    isolate()
    # 2. Check now what BentoML would report late, from a worker and with a traceback.
    host = require_address(host, port)
    target = _target(folder, version)
    # 3. BentoML changes to its working folder and puts it first on the import path, so this must
    # not be the user's current folder.
    working_dir = str(folder.absolute())
    os.environ["BENTOML_HOME"] = str(bento_store())
    # 4. execv keeps the process id, so signals reach the server. It discards buffered output.
    sys.stdout.flush()
    sys.stderr.flush()
    arguments = ["serve", target, "--working-dir", working_dir, "--host", host, "--port", str(port)]
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", *arguments])  # noqa: S606 - no shell is wanted


def _target(folder: Path, version: ModelVersion | None) -> str:
    """Return the argument of `bentoml serve`; a model folder is passed by variables."""
    folder = folder.absolute()
    if (folder / "bento.yaml").is_file():
        return str(folder)
    from aigc_ops.core.atomic_dirs import verify_folder

    verify_folder(folder, expected=version.manifest_digest if version else None)
    os.environ[MODEL_VARIABLE] = str(folder)
    if version is not None:
        os.environ[NAME_VARIABLE] = version.name
        os.environ[VERSION_VARIABLE] = str(version.version)
    return SERVICE


def require_address(host: str, port: int) -> str:
    """Return the host's IP address; raises PackagingError if this process cannot listen on it."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise PackagingError(
            f"host is {host!r}; give an IP address such as 127.0.0.1, or 0.0.0.0 for all"
        ) from None
    if not 1 <= port <= 65535:
        raise PackagingError(f"port is {port}; give one from 1 to 65535")
    with socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET) as probe:
        # As servers do, or an earlier server's connections in TIME_WAIT would block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((str(address), port))
        except OSError as error:
            raise PackagingError(_explain(error, host, port)) from error
    return str(address)


def _explain(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use; give another with --port, or stop its owner"
    return f"cannot listen on port {port} of {host} ({error.strerror}); give another with --port"
