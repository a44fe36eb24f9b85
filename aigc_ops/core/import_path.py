"""Where this process and those that it starts import from: never the working folder by chance.

`python -m` and `python -c` put the working folder before everything else, so that a user's own
`flows/` or `torch.py` would be imported in place of the one that is meant.
"""

# Only modules that every interpreter holds at its start: the working folder is still first.
import os
import sys


def package_root() -> str:
    """Return the folder that `aigc_ops` and `flows` are in."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    return os.path.dirname(package)  # noqa: PTH120


def drop_working_folder() -> None:
    """Remove the working folder that `python -m` has put first; call it before other imports.

    It stays where it holds this very package, as in a checkout that is not installed.
    """
    if not sys.flags.safe_path and sys.path and sys.path[0] != package_root():
        del sys.path[0]


def isolate() -> None:
    """Import `flows` from beside this package; let started Python processes do likewise.

    Those leave their working folder out, and look first where this package is, unless that is
    where all packages are.
    """
    _import_flows()
    os.environ["PYTHONSAFEPATH"] = "1"
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    # An empty entry means the working folder, and comes from joining to an unset variable.
    paths = [os.path.abspath(path) for path in named if path]  # noqa: PTH100
    root = package_root()
    if os.path.basename(root) not in ("site-packages", "dist-packages"):  # noqa: PTH119
        paths = [root, *(path for path in paths if path != root)]
    if paths:
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)


def _import_flows() -> None:
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    if "flows" in sys.modules:
        return
    spec = PathFinder.find_spec("flows", [package_root()])
    assert spec, package_root()
    assert spec.loader, spec
    sys.modules["flows"] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
