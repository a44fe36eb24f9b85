"""The import path of this process and its child processes, without the working folder.

`python -m` and `python -c` put the working folder first on the import path. A user's own
`flows/` or `torch.py` there would then be imported instead of the installed package.
"""

# Only modules that the interpreter has loaded at its start may be imported here: the working
# folder is still first on the import path, so a user's `pathlib.py` would be imported.
import os
import sys


def package_root() -> str:
    """Return the folder that contains `aigc_ops` and `flows`."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    return os.path.dirname(package)  # noqa: PTH120


def drop_working_folder() -> None:
    """Remove the working folder that `python -m` puts first; call it before other imports."""
    # With safe_path (-P, PYTHONSAFEPATH) Python has put no folder there. In a checkout that is
    # not installed, the working folder is where this package itself is found: it stays.
    if not sys.flags.safe_path and sys.path and sys.path[0] != package_root():
        del sys.path[0]


def isolate() -> None:
    """Import `flows` from beside this package, and make child processes do the same."""
    _import_flows()
    os.environ["PYTHONSAFEPATH"] = "1"
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    # An empty entry means the working folder; `PYTHONPATH=DIR:$PYTHONPATH` makes one.
    paths = [os.path.abspath(path) for path in named if path]  # noqa: PTH100
    root = package_root()
    # An editable install is not in site-packages. A child finds it first then, before another
    # `flows` on its path. Adding site-packages itself would put it before the standard library.
    if os.path.basename(root) not in ("site-packages", "dist-packages"):  # noqa: PTH119
        paths = [root, *(path for path in paths if path != root)]
    if paths:
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)


def _import_flows() -> None:
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    # Looked up in one folder instead of on sys.path, where another `flows` may come first.
    if "flows" in sys.modules:
        return
    spec = PathFinder.find_spec("flows", [package_root()])
    assert spec, package_root()
    assert spec.loader, spec
    sys.modules["flows"] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
