"""The registry's store and checkpoints, for decisions on versions."""

from tests.registry.conftest import empty_database, make_checkpoint, store

__all__ = ["empty_database", "make_checkpoint", "store"]
