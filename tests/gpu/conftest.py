"""Tests on a CUDA GPU: `python -m pytest tests/gpu`. Without one they are skipped, and say so."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch  # after effkit.hardware.preflight, which tests/conftest.py imports

    if not torch.cuda.is_available():
        for item in (item for item in items if item.path.is_relative_to(Path(__file__).parent)):  # it is given those of other folders too
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
