"""The fit against numpy's least squares, and against rows that it has not seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from yoloprune.prune import ridge
from yoloprune.prune.ridge import Sums, fit


def made(
    n: int, *, seed: int, noise: float, groups: int = 2, inputs: int = 5, outputs: int = 3
) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(7)
    truth, constant = torch.randn(groups, inputs, outputs), torch.randn(groups, 1, outputs)
    torch.manual_seed(seed)
    x = torch.randn(groups, n, inputs) + 2
    return x, x @ truth + constant + noise * torch.randn(groups, n, outputs)


def summed(x: torch.Tensor, r: torch.Tensor, pieces: int = 3, *, held_out: bool = False) -> Sums:
    sums = Sums(x.shape[0], x.shape[2], r.shape[2], x.device, held_out=held_out)
    for xs, rs in zip(x.chunk(pieces, 1), r.chunk(pieces, 1), strict=True):
        sums.add(xs, rs, rs + 1)
    return sums


@pytest.mark.parametrize("shifts", [True, False])
def test_a_fit_without_noise_is_numpys(shifts: bool) -> None:
    (x, r), (xh, rh) = made(200, seed=1, noise=0), made(60, seed=2, noise=0)
    if not shifts:
        r, rh = r - r.mean(1, keepdim=True), rh - r.mean(1, keepdim=True)
    found = fit(summed(x, r), summed(xh, rh), shifts=shifts)
    for group in range(2):
        rows = torch.cat([x[group], xh[group]]).double()
        wanted = torch.cat([r[group], rh[group]]).double()
        ones = torch.ones(len(rows), 1, dtype=torch.double)
        design = torch.cat([rows, ones], 1) if shifts else rows
        answer = np.linalg.lstsq(design.numpy(), wanted.numpy(), rcond=None)[0]
        np.testing.assert_allclose(found.change[group], answer[:5], atol=2e-3)
        if shifts:
            np.testing.assert_allclose(found.bias[group], answer[5], atol=5e-3)
    assert (found.bias == 0).all() or shifts


@pytest.mark.parametrize(("inputs", "rows"), [(5, False), (60, True)])
def test_the_error_is_that_of_the_rows_held_out(inputs: int, rows: bool) -> None:
    (x, r), (xh, rh) = (made(n, seed=n, noise=0.5, inputs=inputs) for n in (40, 30))
    sums = summed(xh, rh, held_out=True)
    assert (sums.rows is not None) is rows
    change, bias = torch.randn(2, inputs, 3).double(), torch.randn(2, 3).double()
    left = rh.double() - xh.double() @ change - bias[:, None]
    torch.testing.assert_close(
        sums.error(change, bias), left.square().mean(1), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(sums.variance(), rh.double().var(1, unbiased=False))
    found = fit(summed(x, r), sums, shifts=True)
    assert found.before == pytest.approx(
        float(rh.square().mean(1).sum() / rh.var(1, unbiased=False).sum()), rel=1e-4
    )


@pytest.mark.parametrize(("inputs", "rows"), [(5, False), (60, True)])
def test_what_a_change_explains_is_gone_from_the_rows(inputs: int, rows: bool) -> None:
    (x, r), (fresh_x, fresh_r) = (made(n, seed=n, noise=0.5, inputs=inputs) for n in (40, 30))
    change, bias = torch.randn(2, inputs, 3).double(), torch.randn(2, 3).double()
    left = (r.double() - x.double() @ change - bias[:, None]).float()
    wanted = summed(x, left, held_out=True)
    given = summed(x, r, held_out=True)
    given.explain(change, bias)
    assert (given.rows is not None) is rows
    for sums in (wanted, given):
        sums.add(fresh_x, fresh_r, fresh_r + 1)
    close = {"rtol": 1e-4, "atol": 1e-3}
    for name in ("n", "x", "r", "r_square"):
        torch.testing.assert_close(getattr(given, name), getattr(wanted, name), **close)
    products = [sums.no_products() for sums in (given, wanted)]
    for sums, product in zip((given, wanted), products, strict=True):
        sums.pour(product)
    for one, other in zip(*products, strict=True):
        torch.testing.assert_close(one, other, **close)


def test_noise_is_pulled_towards_what_was_there() -> None:
    torch.manual_seed(0)
    x, xh = torch.randn(1, 24, 20), torch.randn(1, 500, 20)
    r, rh = torch.randn(1, 24, 4), torch.randn(1, 500, 4)
    found = fit(summed(x, r), summed(xh, rh), shifts=True)
    assert found.pull is None or found.pull >= 3
    assert found.after <= found.before
    clear = fit(summed(*made(400, seed=1, noise=0.01)), summed(*made(99, seed=2, noise=0.01)),
                shifts=True)  # fmt: skip
    assert clear.pull is not None and clear.pull <= 1e-3


def test_a_constant_that_is_off_is_all_that_changes() -> None:
    torch.manual_seed(0)
    x, r = torch.randn(1, 64, 6), torch.full((1, 64, 2), 9.0)
    found = fit(summed(x[:, :48], r[:, :48]), summed(x[:, 48:], r[:, 48:] + 1), shifts=True)
    assert found.pull is not None and found.pull >= 1
    assert float(found.change.abs().max()) < 0.1
    torch.testing.assert_close(found.bias, torch.full((1, 2), 9.25).double(), atol=0.05, rtol=0)
    assert found.before > 100 > 3 > found.after


@pytest.mark.parametrize("inputs", [20, 700])
def test_downhill_finds_what_trying_everything_finds(inputs: int) -> None:
    x, r = made(900, seed=1, noise=3, groups=1, inputs=inputs)
    xh, rh = made(300, seed=2, noise=3, groups=1, inputs=inputs)
    found = fit(summed(x, r), summed(xh, rh), shifts=True, near=10, thorough=False)
    again = fit(summed(x, r), summed(xh, rh), shifts=True, near=1e-4, thorough=False)
    assert found.pull == again.pull
    assert found.after < 0.9 * found.before


@pytest.mark.parametrize("shifts", [True, False])
def test_few_rows_are_fitted_as_many_are(monkeypatch: pytest.MonkeyPatch, shifts: bool) -> None:
    fits = []
    for few in (0.5, 0.0):
        monkeypatch.setattr(ridge, "_FEW", few)
        monkeypatch.setattr(ridge, "_FEW_HELD_OUT", few)
        (x, r), (xh, rh) = (made(n, seed=n, noise=0.5, inputs=200) for n in (60, 30))
        rows, held_out = summed(x, r), summed(xh, rh, held_out=True)
        assert (rows.rows is None) is (held_out.rows is None) is (few == 0)
        fits.append(fit(rows, held_out, shifts=shifts))
    kept, poured = fits
    assert kept.pull == poured.pull is not None
    assert kept.after == pytest.approx(poured.after, rel=1e-4)
    torch.testing.assert_close(kept.change, poured.change, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(kept.bias, poured.bias, rtol=1e-3, atol=1e-3)


def test_rows_are_kept_until_they_are_many() -> None:
    sums = Sums(1, 20, 3, torch.device("cpu"))
    x, r = torch.randn(1, 25, 20), torch.randn(1, 25, 3)
    for rows in (slice(0, 10), slice(10, 11), slice(11, 25)):
        assert (sums.rows is None) is (sums.n > 10)
        sums.add(x[:, rows], r[:, rows], r[:, rows])
    gram, cross = products = sums.no_products()
    sums.pour(products)
    torch.testing.assert_close(gram, (x.mT @ x).double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cross, (x.mT @ r).double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("inputs", [5, 60])
def test_nothing_is_looked_for_where_nothing_is_to_be_mended(
    inputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = []
    for n, held_out in ((200, False), (60, True)):
        x, y = made(n, seed=n, noise=0.5, inputs=inputs)
        both.append(Sums(2, inputs, 3, x.device, held_out=held_out))
        both[-1].add(x, 1e-7 * y, y)
        assert both[-1].rows is not None  # no sums are made
    with monkeypatch.context() as patch:
        patch.setattr(ridge, "_least_pull", None)
        found = fit(*both, shifts=True)
    assert found.pull is None and found.before == found.after <= ridge.EXACT
    assert not found.change.any() and not found.bias.any()


@pytest.mark.parametrize("inputs", [5, 60])
def test_sums_that_were_put_off_are_made_up_for(inputs: int) -> None:
    """Rows of a later call, which are off, come to those of an exact one."""
    x, r = made(400, seed=3, noise=0.5, inputs=inputs)
    late = torch.cat([torch.zeros_like(r[:, :200]), r[:, 200:]], 1)
    sums = Sums(2, inputs, 3, x.device)
    for piece in (slice(0, 200), slice(200, 400)):
        sums.add(x[:, piece], late[:, piece], r[:, piece])
    assert sums.rows is None
    gram, cross = sums.no_products()
    sums.pour((gram, cross))
    torch.testing.assert_close(gram, x.double().mT @ x.double(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(cross, x.double().mT @ late.double(), rtol=1e-4, atol=1e-3)
