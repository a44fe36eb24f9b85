"""The set-up of a flow's process, called first in every flow."""

from aigc_ops.core.import_path import isolate
from aigc_ops.core.state_dir import export_environment
from flows.runtime.logs import hide_user_error_tracebacks


def prepare() -> None:
    """Set the environment variables and log filters of this process."""
    # A worker runs flows in a process that `aigc-ops` has not started.
    export_environment()
    isolate()
    hide_user_error_tracebacks()
