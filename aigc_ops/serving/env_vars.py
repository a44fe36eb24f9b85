"""Environment variables and names shared by the service and the processes that start it."""

MODEL_ALIAS = "served-model"
"""Alias of the model in a Bento's `models` entry."""

# BentoML starts the service's worker processes, so a model folder is passed by variables.
MODEL_VARIABLE = "AIGC_OPS_MODEL"
"""Environment variable: model folder of a service without a Bento."""

NAME_VARIABLE = "AIGC_OPS_MODEL_NAME"
"""Environment variable: model name in answers; default: the folder's name."""

VERSION_VARIABLE = "AIGC_OPS_MODEL_VERSION"
"""Environment variable: model version in answers; default: "unregistered"."""
