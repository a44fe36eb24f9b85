"""Names that the service and those who start it agree on."""

MODEL_ALIAS = "served-model"
"""The alias under which a Bento's `models` entry names the model to serve."""

MODEL_VARIABLE = "AIGC_OPS_MODEL"
"""Environment variable: the model folder for a service whose Bento holds no model."""

NAME_VARIABLE = "AIGC_OPS_MODEL_NAME"
"""Environment variable: the name under which that folder is served; the folder's own if unset."""

VERSION_VARIABLE = "AIGC_OPS_MODEL_VERSION"
"""Environment variable: the version under which that folder is served."""
