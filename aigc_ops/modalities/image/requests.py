"""Conditions of images: the class label."""

from aigc_ops.interfaces.conditions import LabelCondition
from aigc_ops.interfaces.sampling import RequestFields

LABEL = LabelCondition(
    "Class to generate; by default a conditional model cycles through its classes."
)


class ImageRequests(RequestFields):
    """The class label, which a model with classes needs."""

    conditions = (LABEL,)
