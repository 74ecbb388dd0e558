"""The factor of the inverse, made in place, against LAPACK's in float64."""

from __future__ import annotations

import pytest
import torch

from effkit.compress.quantization.factoring import BLOCK, DAMPING, cholesky_, inverse_factor_, invert_, reorder_

N = 2 * BLOCK + 77  # three blocks, the last one short


def moments(n: int = N, tokens: int = 2000) -> torch.Tensor:
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(tokens, n, generator=draw) * torch.linspace(0.1, 3.0, n)[torch.randperm(n, generator=draw)]
    return x.t() @ x / tokens


def test_the_rows_are_those_of_the_inverses_upper_factor():
    h = moments()
    order = torch.argsort(h.diagonal(), descending=True, stable=True)
    exact = h.double()[order][:, order]
    exact.diagonal().add_(DAMPING * float(h.diagonal().mean()))
    expected = torch.linalg.cholesky(torch.linalg.inv(exact), upper=True)
    factor = inverse_factor_(h.clone(), order)
    for start, end in ((0, 128), (128, 256), (500, N)):
        rows = factor.rows(start, end)
        assert rows.shape == (end - start, N - start)
        assert float((rows.double() - expected[start:end, start:]).abs().max()) < 1e-4 * float(expected.abs().max())


def test_it_is_done_in_the_matrix_itself():
    h = moments()
    factor = inverse_factor_(h, torch.arange(N))
    assert factor.reversed.data_ptr() == h.data_ptr()


def test_reordering_is_indexing():
    h = moments(300)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    expected = h[order][:, order]
    reorder_(h, order)
    assert torch.equal(h, expected)


def test_the_factor_and_its_inverse():
    h = moments().add_(torch.eye(N) * 0.1)
    lower = h.clone()
    assert cholesky_(lower)
    assert torch.equal(torch.triu(lower, 1), torch.triu(h, 1))  # from which a failed one begins again
    exact = torch.linalg.cholesky(h.double())
    assert float((torch.tril(lower).double() - exact).abs().max()) < 1e-4
    invert_(lower)
    assert float((lower.double() @ exact - torch.eye(N)).abs().max()) < 1e-3


@pytest.mark.parametrize("n", [32, N])
def test_where_there_is_no_factor_the_diagonal_is_raised_until_there_is_one(n):
    # all in one direction, and minus a little in the others: the first damping is too small for it
    h = torch.full((n, n), 1.0) - 0.05 * torch.eye(n)
    if n == N:
        h[:BLOCK, :BLOCK] += torch.eye(BLOCK)  # here only the second block fails
    assert not cholesky_(h + DAMPING * float(h.diagonal().mean()) * torch.eye(n))
    order = torch.arange(n)
    factor = inverse_factor_(h.clone(), order).rows(0, n).double()
    diagonal = h.diagonal().double().clone()
    diagonal[diagonal <= 0] = 1.0
    expected = []
    for tries in range(6):
        damped = h.double().clone()
        damped.diagonal().copy_(diagonal + DAMPING * 10.0**tries * float(diagonal.mean()))
        found, failed = torch.linalg.cholesky_ex(torch.linalg.inv(damped), upper=True)
        if not int(failed) and not int(torch.linalg.cholesky_ex(damped)[1]):
            expected.append(found)
    assert float((factor - expected[0]).abs().max()) < 1e-3 * float(expected[0].abs().max())


def test_what_is_not_finite_is_an_error():
    with pytest.raises(ArithmeticError, match=r"the inputs' \(8, 8\) second moments have no Cholesky factor"):
        inverse_factor_(torch.full((8, 8), float("nan")), torch.arange(8))
