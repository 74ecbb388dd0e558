"""What it runs on: attached devices, their clocks and memory, the state of the machine.

Importing it runs the preflight, so that every module in here may import torch at its top.
"""

from . import preflight as preflight
