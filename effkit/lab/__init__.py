"""Live work: runs, the store of records, measuring, the workshop."""

import effkit.hardware.preflight  # noqa: F401  (before torch is imported anywhere)
