"""Tests on a simulated Ascend machine. They need a session of their own: `python tests/npu/run.py`."""

import sys

collect_ignore_glob = [] if "effkit_simulated_npu" in sys.modules else ["test_*.py"]
