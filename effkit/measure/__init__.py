"""What a compressed model kept (fidelity) and what it costs to run (latency)."""

import effkit.hardware.preflight  # noqa: F401  (must come before the first import of torch)
