"""What every flow sets up in its process before anything else."""

from aigc_ops.home import export_environment
from aigc_ops.import_path import isolate
from flows.logs import show_messages_alone
from flows.results import accept_nouns_alone


def prepare() -> None:
    """Name the home to every library, log messages without tracebacks, trust no kept pickle."""
    export_environment()
    isolate()
    show_messages_alone()
    accept_nouns_alone()
