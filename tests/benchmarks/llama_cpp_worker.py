"""llama.cpp's process in llama_cpp.py: reads one JSON request a line, decodes greedily, answers with the seconds it took."""

from __future__ import annotations

import json
import sys
import time

import llama_cpp
import numpy as np


def main(path: str, threads: int) -> None:
    llama = llama_cpp.Llama(model_path=path, n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False)
    size = llama.n_vocab()

    def likely() -> int:
        return int(np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llama.ctx, -1), shape=(size,)).argmax())

    print(json.dumps({"version": llama_cpp.__version__, "system": llama_cpp.llama_print_system_info().decode()}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        llama.reset()
        begun = time.perf_counter()
        llama.eval(asked["prompt"])
        made = [likely()]
        first = time.perf_counter()
        for _ in range(asked["tokens"] - 1):
            llama.eval([made[-1]])
            made.append(likely())
        done = time.perf_counter()
        print(json.dumps({"prefill": first - begun, "decode": done - first, "tokens": made}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
