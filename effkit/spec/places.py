"""Where effkit keeps things: records and runs in the user's data folder, caches in the cache folder.

`EFFKIT_HOME` moves both (tests and workshops use it).
"""

from __future__ import annotations

import os
from pathlib import Path


def data_folder() -> Path:
    """Records and runs. Not created here."""
    home = os.environ.get("EFFKIT_HOME")
    if home:
        return Path(home).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("effkit"))


def cache_folder() -> Path:
    """What can be computed again: reference logits, converted weights. Not created here."""
    home = os.environ.get("EFFKIT_HOME")
    if home:
        return Path(home).expanduser() / "cache"
    import platformdirs

    return Path(platformdirs.user_cache_dir("effkit"))


def runs_folder() -> Path:
    """One folder a run. Not created here."""
    return data_folder() / "runs"
