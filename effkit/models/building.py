"""One model is built at a time: transformers and accelerate change torch's modules for the whole process while they build one.

A second thread that built a model meanwhile (a run that goes on from its folder, beside a cell that loads) would get parts
of it without memory.
"""

from __future__ import annotations

import threading

BUILDING = threading.RLock()
