"""What every flow sets up in its process before anything else."""

from aigc_ops.core.import_path import isolate
from aigc_ops.core.state_dir import export_environment
from flows.runtime.logs import show_messages_alone


def prepare() -> None:
    """Name the state directory to every library, and log messages without tracebacks."""
    export_environment()
    isolate()
    show_messages_alone()
