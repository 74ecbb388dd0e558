"""llama.cpp's quantizer, in an environment with llama-cpp-python: `llama_cpp_worker.py IN.gguf OUT.gguf TYPE`.

`pure`: every tensor gets the type, as far as its rows allow (k-quants: a multiple of 256). No importance matrix.
"""

from __future__ import annotations

import ctypes
import sys


def main(source: str, out: str, kind: str) -> int:
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_{kind}")
    parameters.pure = True
    parameters.nthread = 1
    return int(llama_cpp.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(parameters)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
