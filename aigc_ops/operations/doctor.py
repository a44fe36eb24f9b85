"""Checks of the installation, the stores, the data and the audit logs, with advice."""

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from pydantic import Field

from aigc_ops.core import prefect_http
from aigc_ops.core.artifacts import Record
from aigc_ops.core.errors import AigcOpsError
from aigc_ops.core.extras import EXTRAS, missing
from aigc_ops.core.private_folders import fault, private_folder, remedy
from aigc_ops.core.project import (
    FAMILIES_FOLDER,
    MODALITIES_FOLDER,
    PROJECT_FILE,
    project_requirements,
    project_root,
)
from aigc_ops.core.project_modules import module_names
from aigc_ops.core.state_dir import PRIVATE_FOLDERS, TELEMETRY_OFF, home
from aigc_ops.data.dvc import is_in_remote, pins_here
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.models import family_type
from aigc_ops.provenance.environment import LOCK, OWN, compare
from aigc_ops.registry import health
from aigc_ops.registry.aliases import reconcile
from aigc_ops.registry.audit_log import PAST, audit, audited_names
from aigc_ops.registry.client import address
from aigc_ops.registry.resolution import resolve_version, verify_stored
from aigc_ops.registry.versions import CHAMPION, models
from aigc_ops.serving.bento.store import bento_store, package_root

GIB = 2**30
WANTED_BYTES, NEEDED_BYTES = 5 * GIB, GIB // 2
"""Free disk for a run of the shipped configs with its Bento; and for a checkpoint at all."""
LEFTOVER = re.compile(r"\..*\.(partial|retired)|\.(download|upload|packet)-.*")
LEFTOVER_SECONDS = 3600
"""A partial folder with a later change may belong to a process that is still running."""
MAX_LISTED = 5

State = Literal["ok", "warn", "FAIL"]


class Finding(Record):
    """A finding of one check, with advice where something is wrong."""

    check: str
    state: State
    found: str
    advice: str | None = Field(default=None, description="What to do; None for state ok.")


Result = tuple[State, str, str | None]
"""State, finding and advice; `_findings` adds the name of the check."""
Check = Callable[[], Iterable[Result]]


def examine(*, repair: bool = False, revert: bool = False, every: bool = False) -> list[Finding]:
    """Return the findings of every check, in order.

    `repair` completes promotions that were interrupted. `revert` does so too, and restores aliases
    that were moved outside aigc-ops. `every` verifies the files of all versions, not only those of
    the champions.
    """
    findings = [finding for name, check in LOCAL.items() for finding in _findings(name, check)]
    stored = _findings("MLflow's store", _store)
    findings += stored
    checks: dict[str, Check] = {
        "aliases and audit log": partial(_aliases, repair=repair, revert=revert),
        "runs": _runs,
        "stored files": partial(_stored_files, every=every),
    }
    # Without a store the other checks would fail too, and connecting would create one: the doctor
    # must leave a new state directory as it is.
    if stored[0].state != "FAIL" and health.store()[1] is not None:
        findings += [
            finding for name, check in checks.items() for finding in _findings(name, check)
        ]
    return findings


def _findings(name: str, check: Check) -> list[Finding]:
    """Return the findings of a check; an exception in it is a finding too."""
    results: list[Result] = []
    try:
        results += check()
    except AigcOpsError as error:
        results.append(("FAIL", str(error), None))
    # The doctor runs where something is broken already. A failing check must not hide the others.
    except Exception as error:
        message = f"the check itself broke: {type(error).__name__}: {error}"
        results.append(("FAIL", message, "report it with the command that you ran"))
    return [Finding(check=name, state=s, found=f, advice=a) for s, f, a in results]


def _python() -> Iterator[Result]:
    wanted = importlib.metadata.metadata(OWN)["Requires-Python"]
    if SpecifierSet(wanted).contains(platform.python_version()):
        yield "ok", f"{platform.python_version()} at {sys.executable}", None
    else:
        yield "FAIL", f"{platform.python_version()}", f"make an environment with Python {wanted}"


def _packages() -> Iterator[Result]:
    needed = [Requirement(line) for line in importlib.metadata.requires(OWN) or ()]
    # An empty extra leaves out what only `pip install aigc-ops[...]` installs.
    wanted = [line for line in needed if not line.marker or line.marker.evaluate({"extra": ""})]
    absent = sorted(line.name for line in wanted if not _is_installed(line.name))
    install = f"python -m pip install -c {LOCK} -e ."
    if absent:
        yield "FAIL", f"{_listed(absent)} not installed", install
    without = [name for name in EXTRAS if missing(name)]
    extras = f"; extras not installed: {', '.join(without)}" if without else ""
    root = package_root()
    if not (root / LOCK).is_file():
        yield "ok", f"not compared with a lock file: no {LOCK} here{extras}", None
        return
    other = compare((root / LOCK).read_text("utf-8")).other
    if other:
        versions = [f"{name} {now} (locked: {locked})" for name, (now, locked) in other.items()]
        yield "warn", f"{len(other)} differ from the lock: {_listed(versions)}", install
    elif not absent:
        yield "ok", f"as {LOCK} pins them{extras}", None


def _disk() -> Iterator[Result]:
    # The state directory may not exist yet; its nearest existing parent is on the same disk.
    existing = next(folder for folder in (home(), *home().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    message = f"{free / GIB:.1f} GiB free for {home()}; {WANTED_BYTES / GIB:.0f} GiB are wanted"
    if free >= WANTED_BYTES:
        yield "ok", message, None
        return
    advice = "free space (`aigc-ops cache prune`), or set AIGC_OPS_HOME to another disk"
    yield "FAIL" if free < NEEDED_BYTES else "warn", message, advice


def _telemetry() -> Iterator[Result]:
    # An unset variable counts as off: aigc-ops exports all of them before a library is imported.
    on = [name for name, value in TELEMETRY_OFF.items() if os.environ.get(name, value) != value]
    if on:
        yield (
            "warn",
            f"{_listed(on)} set to a value that turns telemetry on",
            f"unset {' '.join(on)}",
        )
    else:
        yield "ok", f"off, by {len(TELEMETRY_OFF)} environment variables", None


def _leftovers() -> Iterator[Result]:
    # 1. Hidden partial folders and downloads that no process has changed for an hour.
    old = time.time() - LEFTOVER_SECONDS
    hidden = [path for depth in (".*", "*/.*", "*/*/.*") for path in home().glob(depth)]
    leftovers = [p for p in hidden if LEFTOVER.fullmatch(p.name) and p.lstat().st_mtime < old]
    # 2. Unconfirmed Bentos: their names begin with the id of the process that built them.
    for folder in (bento_store() / "unconfirmed").glob("*-*"):
        process = folder.name.partition("-")[0]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            leftovers.append(folder)
    if leftovers:
        shown = [os.path.relpath(path) for path in leftovers]
        message = f"{len(leftovers)} partial folders of interrupted runs: {_listed(shown)}"
        yield "warn", message, f"rm -r {' '.join(shown)}"
    else:
        yield "ok", f"none below {home()}", None


def _private_folders() -> Iterator[Result]:
    folders = [private_folder(variable) for variable in PRIVATE_FOLDERS]
    # lexists: a link that leads nowhere is a finding too, since somebody else may have placed it.
    existing = [folder for folder in folders if os.path.lexists(folder)]
    sound = []
    for folder in existing:
        if problem := fault(folder):
            yield "FAIL", f"{folder} {problem}", remedy(folder)
        else:
            sound.append(os.path.relpath(folder))
    if len(sound) == len(existing):
        message = f"{_listed(sound)}: accessible to you only" if sound else "none exists yet"
        yield "ok", message, None


def _project() -> Iterator[Result]:
    root = project_root()
    if root is None:
        yield "ok", "none here: the working folder has the state directory", None
        return
    families = module_names(FAMILIES_FOLDER, packages=False)
    modalities = module_names(MODALITIES_FOLDER, packages=True)
    checks: list[tuple[str, Callable[[], object]]] = [
        *((f"{FAMILIES_FOLDER}/{name}.py", partial(family_type, name)) for name in families),
        *((f"{MODALITIES_FOLDER}/{name}", partial(find_modality, name)) for name in modalities),
        (PROJECT_FILE, lambda: list(project_requirements(root))),
    ]
    added = ", ".join([*families, *modalities]) or "no families and modalities"
    failures = []
    for name, check in checks:
        try:
            check()
        except AigcOpsError as error:
            failures.append((str(error), f"correct {name}"))
    if not failures:
        yield "ok", f"{root}: adds {added}", None
    for message, advice in failures:
        yield "FAIL", message, advice


def _data() -> Iterator[Result]:
    pins = pins_here()
    if not pins:
        yield "ok", f"no data is pinned by DVC in {Path.cwd()}", None
    for pin in pins:
        shown = os.path.relpath(pin.output)
        is_here = pin.output.exists()
        if not is_in_remote(pin):
            advice = f"aigc-ops dvc push {shown}" + ("" if is_here else " on a machine that has it")
            yield "FAIL", f"DVC's remote lacks {shown}, which {pin.file.name} pins", advice
        elif not is_here:
            yield (
                "warn",
                f"{shown} is not here; DVC's remote holds it",
                f"aigc-ops data pull {shown}",
            )
        else:
            yield "ok", f"DVC's remote holds {shown} as it is pinned", None


def _prefect() -> Iterator[Result]:
    server = prefect_http.api_url()
    if server is None:
        yield "ok", "no PREFECT_API_URL: each run starts a server of its own", None
        return
    try:
        healthy = prefect_http.get_json("health")
    except (OSError, ValueError) as error:
        advice = "start it (prefect server start), correct PREFECT_API_URL, or unset it"
        yield "FAIL", f"{server} does not answer: {error}", advice
        return
    if healthy is True:
        yield "ok", f"{server} answers", None
    else:
        yield "FAIL", f"{server} is not a Prefect API", "PREFECT_API_URL ends with /api"


def _gpu() -> Iterator[Result]:
    import torch  # takes seconds; importing this module must not

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [torch.cuda.get_device_name(index) for index in range(count)]
    yield "ok", ", ".join(names) or f"none; {os.cpu_count()} CPU cores train and generate", None


def _store() -> Iterator[Result]:
    started = time.perf_counter()
    location, num_models = health.store()
    seconds = time.perf_counter() - started
    if num_models is None:
        yield "ok", f"{location} will be made by the first run", None
    else:
        yield "ok", f"{location} answers in {seconds:.1f} s: {num_models} models", None


def _aliases(*, repair: bool, revert: bool) -> Iterator[Result]:
    # A model whose versions were all deleted has a log still, which names its champion.
    names = sorted({*(row.name for row in models()), *audited_names()})
    if not names:
        yield "ok", "no model is registered", None
    for name in names:
        # One damaged log must not hide the state of the other models' logs.
        try:
            yield _log(name, repair=repair, revert=revert)
        except AigcOpsError as error:
            yield "FAIL", f"{name}: {error}", None


def _log(name: str, *, repair: bool, revert: bool) -> Result:
    """Return the state of one model's audit log, after the repair that was requested."""
    before = audit(name)
    if before.problems and (repair or revert):
        reconcile(name, "revert" if revert else "flag")
    log = audit(name)
    message = f"{name}: {'; '.join(log.problems)}"
    # A past move stays in the log for good. As FAIL it would make every later `doctor` fail.
    if log.problems and all(problem.startswith(PAST) for problem in log.problems):
        return "warn", message, "aliases match the log again; find out who moved them"
    if log.problems:
        advice = (
            "aigc-ops doctor --repair completes an interrupted decision, --revert restores "
            "aliases; a damaged log must be restored from a backup of the store"
        )
        return "FAIL", message, advice
    repaired = f"; repaired: {'; '.join(before.problems)}" if before.problems else ""
    return "ok", f"{name}: {len(log.entries)} entries verified{repaired}", None


def _runs() -> Iterator[Result]:
    orphans = health.orphans()
    if not orphans:
        yield "ok", "no interrupted run is shown as RUNNING", None
    for run in orphans:
        why = "its process has ended" if run.is_gone else "its process cannot be checked from here"
        end = f"import mlflow; mlflow.MlflowClient().set_terminated({run.run_id!r}, 'KILLED')"
        yield (
            "warn",
            f"{run.name} ({run.run_id}) has been RUNNING for {run.hours:.1f} h, but {why}",
            f'repeat the same `aigc-ops run` to resume it; to end it: python -c "{end}", with '
            f"MLFLOW_TRACKING_URI={address()}",
        )


def _stored_files(*, every: bool) -> Iterator[Result]:
    # Only champions by default: every version is downloaded, which takes minutes for large models.
    rows = [row for row in models() if every or CHAMPION in row.aliases]
    verified = []
    for row in rows:
        # The store's copy is downloaded: the local cache may be intact while the store is not.
        uri = f"models:/{row.name}/{row.version}"
        try:
            verify_stored(resolve_version(uri))
            verified.append(uri)
        except AigcOpsError as error:
            advice = f"aigc-ops rollback {row.name}, and restore the store from a backup"
            yield "FAIL", f"{uri}: {error}", advice
    subject = "versions" if every else "champions"
    if len(verified) == len(rows):
        yield "ok", f"{len(rows)} {subject} match their manifests", None


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - MAX_LISTED} more" if len(items) > MAX_LISTED else ""
    return ", ".join(items[:MAX_LISTED]) + more


# In the order of the report. Checks of the stores come after these, see `examine`.
LOCAL: dict[str, Check] = {
    "Python": _python,
    "packages": _packages,
    "disk": _disk,
    "GPU": _gpu,
    "telemetry": _telemetry,
    "leftovers": _leftovers,
    "private caches": _private_folders,
    "project": _project,
    "data": _data,
    "Prefect": _prefect,
}
