"""How a model is made smaller: quantization, pruning, distillation, and recipes of them."""

import effkit.hardware.preflight  # noqa: F401  (before torch is imported)
