"""Packages a registered model: built, booted and compared before it counts."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import yaml

from aigc_ops.core.artifacts import BentoTag, ModelVersion
from aigc_ops.core.atomic_dirs import read_model_json, verify_folder
from aigc_ops.core.errors import CheckpointError, PackagingError
from aigc_ops.core.state_dir import TELEMETRY_OFF, home
from aigc_ops.models import modality_of
from aigc_ops.provenance.code_version import revision
from aigc_ops.sampling.files import read_golden
from aigc_ops.serving.bento.build import Order, require_uv
from aigc_ops.serving.bento.external_code import external_packages
from aigc_ops.serving.bento.golden_check import compare_golden
from aigc_ops.serving.bento.store import (
    BENTOFILE,
    CONFIRMATION,
    Confirmation,
    bento_folder,
    bento_store,
    code_digest,
    code_files,
    content_digest,
    find_bento,
    find_project,
    model_folder,
)
from aigc_ops.serving.config import PackagingConfig
from aigc_ops.serving.env_vars import MODEL_ALIAS
from aigc_ops.serving.runtime.process import running, with_log_end


def package(version: ModelVersion, folder: Path, *, config: PackagingConfig) -> BentoTag:
    """The Bento of a registered version, booted and equal to its golden samples.

    `folder` is the version's model folder. A Bento confirmed before, of the same model
    and the same code, is returned as it is. A new one stays out of BentoML's store until
    its samples have been compared. Raises PackagingError with the end of the log.
    """
    verify_folder(folder, expected=version.manifest_digest)
    if confirmed := find_bento(version):
        return confirmed
    root = find_project()
    if root is None:
        raise PackagingError(
            f"no {BENTOFILE} beside the package or in {Path.cwd()}; "
            "package from a checkout of aigc-ops, which holds it"
        )
    require_uv()
    try:
        with _staging_store() as staging:
            return _package(version, folder, root=root, staging=staging, config=config)
    except OSError as error:
        raise PackagingError(
            f"{bento_store()}: cannot be written ({error}); "
            "free space or set BENTOML_HOME to another folder, then package again"
        ) from error


def _package(
    version: ModelVersion, folder: Path, *, root: Path, staging: Path, config: PackagingConfig
) -> BentoTag:
    modality = modality_of(read_model_json(folder)["family"])
    golden = read_golden(modality, folder)
    if not golden[0]:
        raise PackagingError(f"{folder}: keeps no golden samples; register the model again")
    code = code_digest(root)
    bento = bento_folder(staging, version, code)
    logs = home() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **TELEMETRY_OFF, "BENTOML_HOME": str(staging)}
    # Not below the home, whose own name is hidden: BentoML refuses files of hidden folders.
    with tempfile.TemporaryDirectory(prefix="aigc-ops-bento-") as context:
        order = _order(version, folder, bento=bento, context=context)
        _stage_code(root, Path(context), model_tag=f"{order.name}:{order.model_version}")
        _build(order, environment=environment, root=root, log=logs / f"build-{bento.name}.log")
    log = logs / f"serve-{bento.name}.log"
    with running(str(bento), environment=environment, folder=staging, log=log) as server:
        server.wait_ready(config.boot_timeout_seconds)
        levels = compare_golden(server, version, modality, golden, config.tolerance_levels)
        server.stop()
    confirmed = BentoTag(
        tag=f"{order.name}:{order.bento_version}",
        model=version,
        uri=str(bento_folder(bento_store(), version, code)),
        num_golden=len(golden[0]),
        max_levels_apart=levels,
    )
    _keep(confirmed, staging=staging, code=code)
    return confirmed


def _order(version: ModelVersion, folder: Path, *, bento: Path, context: str) -> Order:
    model = model_folder(bento.parents[2], version)
    identity = {
        "name": version.name,
        "version": str(version.version),
        "run_id": version.run_id,
        "manifest_digest": version.manifest_digest,
    }
    code = revision()
    labels = {"git_commit": code.commit, "git_diff": code.diff_digest} if code else {}
    return Order(
        context=context,
        name=bento.parent.name,
        bento_version=bento.name,
        model_version=model.name,
        model_source=str(folder.absolute()),
        metadata=identity,
        labels={**identity, **{name: value for name, value in labels.items() if value}},
    )


def _stage_code(root: Path, context: Path, *, model_tag: str) -> None:
    """Copy what bentofile.yaml includes, so that BentoML need not search the checkout."""
    for path in code_files(root):
        target = context / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    bentofile = yaml.safe_load((root / BENTOFILE).read_text("utf-8"))
    requirements = context / bentofile["python"]["requirements_txt"]
    for package in external_packages():
        bentofile["include"] += package.copy(context)
        with requirements.open("a", encoding="utf-8") as lines:
            lines.writelines(f"{each}\n" for each in package.requirements())
    bentofile["models"] = [{"tag": model_tag, "alias": MODEL_ALIAS}]
    (context / BENTOFILE).write_text(yaml.safe_dump(bentofile, sort_keys=False), "utf-8")


def _build(order: Order, *, environment: dict[str, str], root: Path, log: Path) -> None:
    with log.open("wb") as output:
        done = subprocess.run(
            [sys.executable, "-m", "aigc_ops.serving.bento.build"],
            input=order.model_dump_json().encode(),
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=root,
            check=False,
        )
    if done.returncode != 0:
        raise PackagingError(with_log_end("the Bento could not be built", log))


def _keep(confirmed: BentoTag, *, staging: Path, code: str) -> None:
    """Move a confirmed Bento and its model from the staging store into BentoML's."""
    version, store = confirmed.model, bento_store()
    model = model_folder(store, version)
    if not _holds_model(model, version):
        _move(model_folder(staging, version), model)
    bento = bento_folder(staging, version, code)
    proof = Confirmation(
        bento=confirmed, code_digest=code, content_digest=content_digest(bento, model)
    )
    (bento / CONFIRMATION).write_text(proof.model_dump_json(indent=2) + "\n", "utf-8")
    _move(bento, bento_folder(store, version, code))


def _holds_model(model: Path, version: ModelVersion) -> bool:
    try:
        verify_folder(model / "model", expected=version.manifest_digest)
    except CheckpointError:
        return False
    return (model / "model.yaml").is_file()


def _move(item: Path, target: Path) -> None:
    """Move an item of a BentoML store into another, where it becomes the latest."""
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    item.rename(target)
    (target.parent / "latest").write_text(target.name)


@contextlib.contextmanager
def _staging_store() -> Iterator[Path]:
    """An empty BentoML home beside the real one, removed when the block is left."""
    parent = bento_store() / "unconfirmed"
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.iterdir():
        if not psutil.pid_exists(int(left.name.partition("-")[0])):
            shutil.rmtree(left, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=parent))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
