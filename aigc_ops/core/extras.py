"""Packages that only some models need: the extras of the package, such as `aigc-ops[text]`."""

from importlib.metadata import PackageNotFoundError, requires, version

from aigc_ops.core.errors import ConfigError

OWN = "aigc-ops"
EXTRAS = ("image", "text", "s3")


def require_extra(name: str, purpose: str) -> None:
    """Raise ConfigError with the command to run if packages of an extra are not installed."""
    if absent := missing(name):
        raise ConfigError(f"{purpose} need {', '.join(absent)}; run: pip install '{OWN}[{name}]'")


def missing(extra: str) -> list[str]:
    """Return the packages of an extra that are not installed."""
    return sorted(package for package in _packages(extra) if not _is_installed(package))


def install_advice(error: ModuleNotFoundError) -> str | None:
    """Return what to install, if an extra installs the missing module; else None."""
    module = (error.name or "").partition(".")[0]
    # The packages of the extras have the names of their modules.
    package = module.replace("_", "-").lower()
    extra = next((extra for extra in EXTRAS if package in _packages(extra)), None)
    if extra is None:
        return None
    return f"{package} is not installed; run: pip install '{OWN}[{extra}]'"


def _packages(extra: str) -> list[str]:
    # Imported here: every command imports this module.
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    try:
        lines = map(Requirement, requires(OWN) or [])
    except PackageNotFoundError:  # not installed, as in a Bento
        return []
    return [
        canonicalize_name(line.name)
        for line in lines
        # A marker that is false without the extra and true with it.
        if line.marker
        and line.marker.evaluate({"extra": extra})
        and not line.marker.evaluate({"extra": ""})
    ]


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
