"""The registry's store and checkpoints, for records of runs."""

from tests.registry.conftest import empty_database, make_checkpoint, store

__all__ = ["empty_database", "make_checkpoint", "store"]
