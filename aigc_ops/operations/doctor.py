"""Whether installation, stores, data and log are as they should be, and what to do if not."""

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
from aigc_ops.core.artifacts import Noun
from aigc_ops.core.errors import AigcOpsError
from aigc_ops.core.private_folders import fault, private_folder, remedy
from aigc_ops.core.state_dir import PRIVATE_FOLDERS, TELEMETRY_OFF, home
from aigc_ops.data.dvc import is_in_remote, pins_here
from aigc_ops.provenance.environment import LOCK, OWN, compare
from aigc_ops.registry import health
from aigc_ops.registry.aliases import reconcile
from aigc_ops.registry.audit_log import PAST, audit
from aigc_ops.registry.client import address
from aigc_ops.registry.resolution import resolve_version, verify_stored
from aigc_ops.registry.versions import CHAMPION, models
from aigc_ops.serving.bento.store import bento_store, find_project

GIB = 2**30
WANTED_BYTES, NEEDED_BYTES = 5 * GIB, GIB // 2
"""Free disk for a run of the shipped configs with its Bento; and for a checkpoint at all."""
LEFTOVER = re.compile(r"\..*\.(partial|retired)|\.(download|upload|packet)-.*")
LEFTOVER_SECONDS = 3600
"""A partial folder that was touched later may be somebody's at work."""
SHOWN = 5

State = Literal["ok", "warn", "FAIL"]


class Finding(Noun):
    """What one check found, and what to do about it."""

    check: str
    state: State
    found: str
    advice: str | None = Field(default=None, description="What to do; None when all is well.")


Found = tuple[State, str, str | None]
Check = Callable[[], Iterable[Found]]


def examine(*, repair: bool = False, revert: bool = False, every: bool = False) -> list[Finding]:
    """The findings of every check, in order.

    `repair` completes promotions that were cut short and `revert` puts back aliases that were
    moved by hand, too. `every` verifies all versions' files, not only the champions'.
    """
    findings = [each for name, check in LOCAL.items() for each in _findings(name, check)]
    stored = _findings("MLflow's store", _store)
    findings += stored
    checks: dict[str, Check] = {
        "aliases and audit log": partial(_aliases, repair=repair, revert=revert),
        "runs": _runs,
        "stored files": partial(_stored_files, every=every),
    }
    if stored[0].state != "FAIL" and health.store()[1] is not None:
        findings += [each for name, check in checks.items() for each in _findings(name, check)]
    return findings


def _findings(name: str, check: Check) -> list[Finding]:
    """What a check found; one that breaks is itself a finding."""
    found: list[Found] = []
    try:
        found += check()
    except AigcOpsError as error:
        found.append(("FAIL", str(error), None))
    except Exception as error:  # a doctor who faints helps nobody
        told = f"the check itself broke: {type(error).__name__}: {error}"
        found.append(("FAIL", told, "report it with what you ran"))
    return [Finding(check=name, state=s, found=f, advice=a) for s, f, a in found]


def _python() -> Iterator[Found]:
    wanted = importlib.metadata.metadata(OWN)["Requires-Python"]
    if SpecifierSet(wanted).contains(platform.python_version()):
        yield "ok", f"{platform.python_version()} at {sys.executable}", None
    else:
        yield "FAIL", f"{platform.python_version()}", f"make an environment with Python {wanted}"


def _packages() -> Iterator[Found]:
    needed = [Requirement(line) for line in importlib.metadata.requires(OWN) or ()]
    wanted = [each for each in needed if not each.marker or each.marker.evaluate({"extra": ""})]
    absent = sorted(each.name for each in wanted if not _is_installed(each.name))
    install = f"python -m pip install -c {LOCK} -e ."
    if absent:
        yield "FAIL", f"{_listed(absent)} not installed", install
    root = find_project()
    if root is None or not (root / LOCK).is_file():
        yield "ok", f"nothing to compare with: no {LOCK} here", None
        return
    other = compare((root / LOCK).read_text("utf-8")).other
    if other:
        told = [f"{name} {here} (locked: {locked})" for name, (here, locked) in other.items()]
        yield "warn", f"{len(other)} differ from the lock: {_listed(told)}", install
    elif not absent:
        yield "ok", f"as {LOCK} pins them", None


def _disk() -> Iterator[Found]:
    place = next(folder for folder in (home(), *home().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    told = f"{free / GIB:.1f} GiB free for {home()}; {WANTED_BYTES / GIB:.0f} GiB are wanted"
    if free >= WANTED_BYTES:
        yield "ok", told, None
        return
    advice = "free space (`aigc-ops cache prune`), or set AIGC_OPS_HOME to another disk"
    yield "FAIL" if free < NEEDED_BYTES else "warn", told, advice


def _telemetry() -> Iterator[Found]:
    on = [name for name, value in TELEMETRY_OFF.items() if os.environ.get(name, value) != value]
    if on:
        yield "warn", f"{_listed(on)} set to another value than off", f"unset {' '.join(on)}"
    else:
        yield "ok", f"off, by {len(TELEMETRY_OFF)} switches", None


def _leftovers() -> Iterator[Found]:
    old = time.time() - LEFTOVER_SECONDS
    hidden = [path for depth in (".*", "*/.*", "*/*/.*") for path in home().glob(depth)]
    left = [p for p in hidden if LEFTOVER.fullmatch(p.name) and p.lstat().st_mtime < old]
    for folder in (bento_store() / "unconfirmed").glob("*-*"):
        process = folder.name.partition("-")[0]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            left.append(folder)
    if left:
        shown = [os.path.relpath(path) for path in left]
        told = f"{len(left)} partial folders of runs that were stopped: {_listed(shown)}"
        yield "warn", told, f"rm -r {' '.join(shown)}"
    else:
        yield "ok", f"none below {home()}", None


def _private_folders() -> Iterator[Found]:
    folders = [private_folder(variable) for variable in PRIVATE_FOLDERS]
    here = [folder for folder in folders if os.path.lexists(folder)]
    sound = []
    for folder in here:
        if problem := fault(folder):
            yield "FAIL", f"{folder} {problem}", remedy(folder)
        else:
            sound.append(os.path.relpath(folder))
    if len(sound) == len(here):
        told = f"{_listed(sound)}: yours alone" if sound else "none is made yet"
        yield "ok", told, None


def _data() -> Iterator[Found]:
    pins = pins_here()
    if not pins:
        yield "ok", f"no data is pinned by DVC in {Path.cwd()}", None
    for pin in pins:
        shown = os.path.relpath(pin.output)
        is_here = pin.output.exists()
        if not is_in_remote(pin):
            advice = f"aigc-ops dvc push {shown}" + ("" if is_here else " from where it lies")
            yield "FAIL", f"DVC's remote lacks {shown}, which {pin.file.name} pins", advice
        elif not is_here:
            yield (
                "warn",
                f"{shown} is not here; DVC's remote holds it",
                f"aigc-ops data pull {shown}",
            )
        else:
            yield "ok", f"DVC's remote holds {shown} as it is pinned", None


def _prefect() -> Iterator[Found]:
    server = prefect_http.address()
    if server is None:
        yield "ok", "no PREFECT_API_URL: each run starts a server of its own", None
        return
    try:
        healthy = prefect_http.ask("health")
    except (OSError, ValueError) as error:
        advice = "start it (prefect server start), correct PREFECT_API_URL, or unset it"
        yield "FAIL", f"{server} does not answer: {error}", advice
        return
    if healthy is True:
        yield "ok", f"{server} answers", None
    else:
        yield "FAIL", f"{server} is no Prefect API", "PREFECT_API_URL ends with /api"


def _gpu() -> Iterator[Found]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [torch.cuda.get_device_name(index) for index in range(count)]
    yield "ok", ", ".join(names) or f"none; {os.cpu_count()} CPU cores train and draw", None


def _store() -> Iterator[Found]:
    began = time.perf_counter()
    where, num_models = health.store()
    seconds = time.perf_counter() - began
    if num_models is None:
        yield "ok", f"{where} will be made by the first run", None
    else:
        yield "ok", f"{where} answers in {seconds:.1f} s: {num_models} models", None


def _aliases(*, repair: bool, revert: bool) -> Iterator[Found]:
    names = sorted({row.name for row in models()})
    if not names:
        yield "ok", "no model is registered", None
    for name in names:
        try:
            yield _log(name, repair=repair, revert=revert)
        except AigcOpsError as error:
            yield "FAIL", f"{name}: {error}", None


def _log(name: str, *, repair: bool, revert: bool) -> Found:
    before = audit(name)
    if before.problems and (repair or revert):
        reconcile(name, "revert" if revert else "flag")
    log = audit(name)
    told = f"{name}: {'; '.join(log.problems)}"
    if log.problems and all(problem.startswith(PAST) for problem in log.problems):
        return "warn", told, "it is past, and aliases are as the log says now; ask who moved them"
    if log.problems:
        advice = (
            "aigc-ops doctor --repair completes what was cut short, --revert puts aliases back; a "
            "damaged log is restored from a backup of the store"
        )
        return "FAIL", told, advice
    mended = f"; mended: {'; '.join(before.problems)}" if before.problems else ""
    return "ok", f"{name}: {len(log.entries)} entries hold{mended}", None


def _runs() -> Iterator[Found]:
    orphans = health.orphans()
    if not orphans:
        yield "ok", "none is left behind as RUNNING", None
    for each in orphans:
        why = "its process is gone" if each.is_gone else "nobody here knows its process"
        end = f"import mlflow; mlflow.MlflowClient().set_terminated({each.run_id!r}, 'KILLED')"
        yield (
            "warn",
            f"{each.name} ({each.run_id}) is RUNNING since {each.hours:.1f} h, and {why}",
            f'the same `aigc-ops run` continues it; to end it: python -c "{end}", with '
            f"MLFLOW_TRACKING_URI={address()}",
        )


def _stored_files(*, every: bool) -> Iterator[Found]:
    rows = [row for row in models() if every or CHAMPION in row.aliases]
    whole = []
    for row in rows:
        uri = f"models:/{row.name}/{row.version}"
        try:
            verify_stored(resolve_version(uri))
            whole.append(uri)
        except AigcOpsError as error:
            advice = f"aigc-ops rollback {row.name}, and restore the store from a backup"
            yield "FAIL", f"{uri}: {error}", advice
    of = "versions" if every else "champions"
    if len(whole) == len(rows):
        yield "ok", f"{len(rows)} {of} are as their manifests say", None


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


LOCAL: dict[str, Check] = {
    "Python": _python,
    "packages": _packages,
    "disk": _disk,
    "GPU": _gpu,
    "telemetry": _telemetry,
    "leftovers": _leftovers,
    "private caches": _private_folders,
    "data": _data,
    "Prefect": _prefect,
}
