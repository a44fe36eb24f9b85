"""The model registry: the only room that imports mlflow, and only inside functions.

`tracker` reports a run while it works, `register` stores a checkpoint as a version,
`promotion` moves the champion alias, `resolve` brings a version back as a checkpoint, and
`pyfunc` serves it to any MLflow client.
"""
