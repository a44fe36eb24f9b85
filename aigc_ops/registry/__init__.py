"""The model registry: the only package that imports mlflow, and only inside functions.

`tracker` logs a run while it trains, `registration` stores a checkpoint as a version, `aliases`
moves the champion alias, `resolution` loads a version as a checkpoint, and `pyfunc` serves it to
any MLflow client.
"""
