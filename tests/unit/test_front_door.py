"""effkit.measure is a verb and a room; the verb is what `ek.measure` means, whichever was imported first."""

from __future__ import annotations

import subprocess
import sys

import pytest

VERB = "import effkit as ek; assert ek.measure.name == 'measure', ek.measure; print('verb')"
FIRST = ["", "import effkit.measure.fidelity; ", "import effkit as ek; ek.evaluate; ", "import effkit.lab.records.measuring; "]


@pytest.mark.parametrize("first", FIRST)
def test_measure_is_the_verb(first):
    done = subprocess.run([sys.executable, "-c", first + VERB], capture_output=True, text=True, timeout=280, check=False)
    assert done.stdout == "verb\n", done.stderr
