"""Package stage: build a Bento, boot it, compare its samples, then publish it."""

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
from aigc_ops.provenance.added_code import BENTOFILE, added_code
from aigc_ops.provenance.code_version import revision
from aigc_ops.sampling.files import read_golden
from aigc_ops.serving.bento.bentofile import merged_bentofile
from aigc_ops.serving.bento.build import BuildSpec, require_uv
from aigc_ops.serving.bento.golden_check import compare_golden
from aigc_ops.serving.bento.store import (
    CONFIRMATION,
    REQUIREMENTS,
    Confirmation,
    bento_folder,
    bento_store,
    code_digest,
    code_files,
    content_digest,
    find_bento,
    model_folder,
    package_root,
)
from aigc_ops.serving.config import PackagingConfig
from aigc_ops.serving.env_vars import MODEL_ALIAS
from aigc_ops.serving.runtime.process import running, with_log_end


def package(version: ModelVersion, folder: Path, *, config: PackagingConfig) -> BentoTag:
    """Return a confirmed Bento of a registered version, whose model folder is `folder`.

    A confirmed Bento of the same model and code is reused. A new Bento enters BentoML's store
    only after the smoke test with golden samples. Raises PackagingError with the end of the log.
    """
    verify_folder(folder, expected=version.manifest_digest)
    if confirmed := find_bento(version):
        return confirmed
    require_uv()
    try:
        with _staging_store() as staging:
            return _package(version, folder, root=package_root(), staging=staging, config=config)
    except OSError as error:
        raise PackagingError(
            f"{bento_store()}: cannot be written ({error}); "
            "free space or set BENTOML_HOME to another folder, then package again"
        ) from error


def _package(
    version: ModelVersion, folder: Path, *, root: Path, staging: Path, config: PackagingConfig
) -> BentoTag:
    # 1. Check what can fail quickly before the build, which is slow.
    modality = modality_of(read_model_json(folder)["family"])
    golden = read_golden(modality, folder)
    if not golden[0]:
        raise PackagingError(f"{folder}: has no golden samples; register the model again")
    code = code_digest(root)
    bento = bento_folder(staging, version, code)
    logs = home() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **TELEMETRY_OFF, "BENTOML_HOME": str(staging)}
    # 2. Build. The context is not below the state directory, whose default name `.aigc_ops` is
    # hidden: BentoML excludes files in hidden folders.
    with tempfile.TemporaryDirectory(prefix="aigc-ops-bento-") as context:
        spec = _build_spec(version, folder, bento=bento, context=context)
        _stage_code(
            root,
            Path(context),
            modality=modality.name,
            model_tag=f"{spec.name}:{spec.model_version}",
        )
        _build(spec, environment=environment, root=root, log=logs / f"build-{bento.name}.log")
    # 3. Boot the Bento as `bentoml serve` would, and compare its samples.
    log = logs / f"serve-{bento.name}.log"
    with running(str(bento), environment=environment, folder=staging, log=log) as server:
        server.wait_ready(config.boot_timeout_seconds)
        levels = compare_golden(server, version, modality, golden, config.tolerance_levels)
        server.stop()
    # 4. Publish. The record names the final path, so it is equal for every later call.
    confirmed = BentoTag(
        tag=f"{spec.name}:{spec.bento_version}",
        model=version,
        uri=str(bento_folder(bento_store(), version, code)),
        num_golden=len(golden[0]),
        max_levels_apart=levels,
    )
    _publish(confirmed, staging=staging, code=code)
    return confirmed


def _build_spec(version: ModelVersion, folder: Path, *, bento: Path, context: str) -> BuildSpec:
    model = model_folder(bento.parents[2], version)
    identity = {
        "name": version.name,
        "version": str(version.version),
        "run_id": version.run_id,
        "manifest_digest": version.manifest_digest,
    }
    # The labels repeat the identity, so that `labelled_version` works without the model store.
    code = revision()
    labels = {"git_commit": code.commit, "git_diff": code.diff_digest} if code else {}
    return BuildSpec(
        context=context,
        name=bento.parent.name,
        bento_version=bento.name,
        model_version=model.name,
        model_source=str(folder.absolute()),
        metadata=identity,
        labels={**identity, **{name: value for name, value in labels.items() if value}},
    )


def _stage_code(root: Path, context: Path, *, modality: str, model_tag: str) -> None:
    """Copy the files that bentofile.yaml includes into the build context."""
    # BentoML walks its whole context, and a checkout holds data, checkpoints and environments.
    for path in code_files(root):
        target = context / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    content = merged_bentofile(root, context)
    requirements = context / REQUIREMENTS
    _select_requirements(requirements, modality)
    for code in added_code():
        content["include"] += code.copy(context)
        with requirements.open("a", encoding="utf-8") as lines:
            lines.writelines(f"{pin}\n" for pin in code.requirements())
    content["models"] = [{"tag": model_tag, "alias": MODEL_ALIAS}]
    (context / BENTOFILE).write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")


def _select_requirements(requirements: Path, modality: str) -> None:
    """Replace requirements.txt by the pins of one modality, if it has a file; remove the others."""
    own = requirements.with_name(f"requirements-{modality}.txt")
    if own.is_file():
        own.replace(requirements)
    for other in requirements.parent.glob("requirements-*.txt"):
        other.unlink()


def _build(spec: BuildSpec, *, environment: dict[str, str], root: Path, log: Path) -> None:
    with log.open("wb") as output:
        completed = subprocess.run(
            [sys.executable, "-m", "aigc_ops.serving.bento.build"],
            input=spec.model_dump_json().encode(),
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=root,
            check=False,
        )
    if completed.returncode != 0:
        raise PackagingError(with_log_end("the Bento could not be built", log))


def _publish(confirmed: BentoTag, *, staging: Path, code: str) -> None:
    """Move a confirmed Bento and its model from the staging store into BentoML's store."""
    # The order makes a crash harmless: a Bento appears only after its model and with its
    # confirmation inside. A model without a Bento is reused by the next call.
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
    """Move an item of a BentoML store into another store, and make it the latest."""
    # An existing target is an unconfirmed or damaged item of the same tag. The rename is atomic,
    # because both stores are on one file system; BentoML reads the tag `latest` from a file.
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    item.rename(target)
    (target.parent / "latest").write_text(target.name, encoding="utf-8")


@contextlib.contextmanager
def _staging_store() -> Iterator[Path]:
    """Create an empty BentoML home inside the real one; it is removed at the end."""
    # Inside, so that it is on the same file system as the store to which it is moved.
    parent = bento_store() / "unconfirmed"
    parent.mkdir(parents=True, exist_ok=True)
    # Folders of processes that were killed. Their names start with the process's id.
    for abandoned in parent.iterdir():
        if not psutil.pid_exists(int(abandoned.name.partition("-")[0])):
            shutil.rmtree(abandoned, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=parent))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
