"""More texts to distill on: where the pool is small, words are left out of its texts, parts of them kept, halves exchanged.

The teacher answers what such a text means, so none of them needs a label (data augmentation for distillation: Tang et al. 2019,
arXiv:1903.12136).
"""

from __future__ import annotations

import random
from collections.abc import Sequence


def augmented(texts: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """`count` new texts made from `texts`, the same for the same arguments."""
    draw = random.Random(seed)
    words = [text.split() for text in texts]
    words = [one for one in words if one]
    out: list[str] = []
    while words and len(out) < count:
        one, kind = draw.choice(words), draw.random()
        if kind < 0.5:
            share = draw.uniform(0.1, 0.4)
            new = [word for word in one if draw.random() > share]
        elif kind < 0.75:
            length = max(1, round(len(one) * draw.uniform(0.4, 0.9)))
            start = draw.randrange(len(one) - length + 1)
            new = one[start : start + length]
        else:
            other = draw.choice(words)
            new = one[: (len(one) + 1) // 2] + other[len(other) // 2 :]
        if new:
            out.append(" ".join(new))
    return out
