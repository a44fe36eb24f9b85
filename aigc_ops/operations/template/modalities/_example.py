"""An example of a modality: a folder here, such as `modalities/pulses/`.

The folder's `__init__.py` contains the object `MODALITY`, whose name is that of the folder. Names
that begin with `_`, as this file's, are not searched. docs/add-a-modality.md of aigc-ops explains
all parts, with a whole example.
"""

# from aigc_ops.interfaces.modality import Modality
#
#
# class Pulses(Modality):
#     """Series of numbers."""
#
#     name = "pulses"  # in configs and records
#     unit = "pulses"  # noun in the plural, for progress bars
#     rate_unit = "pulses"  # throughput is reported as pulses_per_second
#
#     # Each part is imported when it is used, so that the command line starts quickly.
#     @property
#     def data(self):  # reads files into rows, and rows into training data
#         from .data import PulseData
#
#         return PulseData()
#
#     @property
#     def samples(self): ...  # joins, writes, reads, compares and shows samples
#
#     @property
#     def requests(self): ...  # the conditions of a request
#
#     @property
#     def training(self): ...  # shows samples during training
#
#     @property
#     def evaluation(self): ...  # scores a model, and compares two
#
#
# MODALITY = Pulses()
