"""Near-copies: texts that share most of their word sequences, found without comparing every pair.

MinHash (Broder 1997, Compression and Complexity of Sequences, 21): the least of a random hash over a text's shingles is
equal for two texts with a probability that is their Jaccard similarity. Texts whose hashes agree in a whole band are
compared exactly; what is similar enough is joined, and so on through the chain.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

SHINGLE = 3  # words
BANDS, ROWS = 24, 3  # a pair of similarity 0.5 shares a band with a probability of 0.96
PRIME = (1 << 31) - 1


def near_copies(texts: Sequence[str], least: float = 0.5) -> list[str]:
    """For each text the first of the texts that it is a near-copy of, itself if there is none.

    least: the Jaccard similarity of their sets of three-word sequences from which two texts are near-copies. Numbers
    count as equal, because the copies of a report differ by registration and date.
    """
    shingles = [_shingles(text) for text in texts]
    signatures = _signatures(shingles)
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for band in range(BANDS):
        buckets: defaultdict[bytes, list[int]] = defaultdict(list)
        for i, signature in enumerate(signatures):
            buckets[signature[band * ROWS : (band + 1) * ROWS].tobytes()].append(i)
        for members in buckets.values():
            heads: list[int] = []  # one of each group met here: a bucket of copies costs one comparison each
            for i in members:
                for head in heads:
                    if root(i) != root(head) and similarity(shingles[i], shingles[head]) >= least:
                        a, b = sorted((root(i), root(head)))
                        parent[b] = a
                if all(root(i) != root(head) for head in heads):
                    heads.append(i)
    return [texts[root(i)] for i in range(len(texts))]


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Jaccard similarity of two sets of shingles, each a sorted array without repeats."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def _shingles(text: str) -> np.ndarray:
    words = ["0" if any(c.isdigit() for c in word) else word for word in "".join(c if c.isalnum() else " " for c in text.lower()).split()]
    parts = {" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}
    return np.array(sorted({zlib.crc32(part.encode()) % PRIME for part in parts}), dtype=np.int64)


def _signatures(shingles: Sequence[np.ndarray]) -> np.ndarray:
    random = np.random.default_rng(0)
    a = random.integers(1, PRIME, size=(BANDS * ROWS, 1))
    b = random.integers(0, PRIME, size=(BANDS * ROWS, 1))
    return np.stack([((a * part + b) % PRIME).min(axis=1) for part in shingles]) if shingles else np.empty((0, BANDS * ROWS), np.int64)
