"""AWQ: inputs that carry much are given larger weights before rounding, so that less of them is lost.

Column j of a layer that reads the inputs x is multiplied by s_j = (mean of x_j^2)^(a/2), and what makes x is divided by it
(see `folding`): the product is the same, but rounding now loses less where inputs are large. The exponent a in 0 ... 1 is
the one with the least error of the output, tr(E H E') with H the second moments of the inputs, over all linears that read
them; a = 0 leaves the layer as it is. Then every group's range is searched with what its inputs carry (Lin et al. 2023,
arXiv:2306.00978, which takes the mean magnitude where this takes the root mean square).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping

import torch
from torch import Tensor, nn

from ..folding import Pair, factors, fold_layer_, pairs
from ..planning import as_matrix
from ..rounding import searched_values
from ..streaming import Seen, Stream, looked_at
from .search import Search

EXPONENTS = 11
TRIES = 4  # ranges for each group while exponents are compared; the final search tries more


class AWQ(Search):
    name = "awq"
    title = "Activation-aware (AWQ)"
    summary = "Large inputs get larger weights, folded into the norm before them; then searched scales."

    def folds(
        self, stream: Stream, layer: nn.Module, index: int, formats: Mapping[str, tuple[int, int]], symmetric: bool
    ) -> Generator[None, None, dict[str, Tensor]]:
        """Factors by name; layer: a working copy that may be changed; formats: bits and group of what will be rounded."""
        found: dict[str, Tensor] = {}
        for pair in pairs(stream, index):
            rounded = {name: formats[name] for name in pair.readers if name in formats}
            if not rounded:
                continue
            seen = yield from looked_at(stream.see(layer, index, list(pair.readers)))
            s = yield from best_factors(layer, pair, rounded, seen, symmetric)
            if s is not None:
                found |= (own := factors(pair, s))
                fold_layer_(layer, own)  # the pairs behind it see it
        return found


def best_factors(
    layer: nn.Module, pair: Pair, formats: Mapping[str, tuple[int, int]], seen: Seen, symmetric: bool
) -> Generator[None, None, Tensor | None]:
    """s [columns] with the least output error of the pair's readers, or None where not to scale is best."""
    size = seen.mean_square.clamp(min=1e-12).sqrt()
    hessian = seen.hessian / max(1, seen.tokens)
    best, chosen = torch.inf, None
    for number in range(EXPONENTS):
        s = size ** (number / (EXPONENTS - 1))
        s = (s / (s.amax() * s.amin()).sqrt()).clamp_(1e-3, 1e3)
        lost = 0.0
        for name, (bits, group) in formats.items():
            weight = as_matrix(layer.get_submodule(name)).float()
            error = searched_values(weight * s, bits, group, symmetric, seen.mean_square / s.square(), TRIES) / s - weight
            lost += float(((error @ hessian) * error).sum())
            yield
        if lost < best:
            best, chosen = lost, None if number == 0 else s
    return chosen


METHOD = AWQ()
