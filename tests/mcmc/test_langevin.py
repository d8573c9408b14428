"""One step of each Langevin kernel by hand, its limits, and what it must not depend on."""

import pytest
import torch

from multiebm.core.random import item_generators, make_generator, randn
from multiebm.core.tree import item_square_norm, tree_map
from multiebm.mcmc.langevin import displaced_langevin, langevin, mala
from multiebm.mcmc.run import run_chain


def skewed(u):
    """log p(u) = 3 u - exp(u) per coordinate: the law of the log of a Gamma(3) variable, not symmetric."""
    return (3 * u - u.exp()).sum(1)


def cubic(u):
    """A density with a polynomial gradient, so that every lane of a vector unit rounds alike."""
    return (0.3 * u - 0.25 * u.square().square()).sum(1)


def two_parts(tree):
    return (cubic(tree["a"]) + tree["a"].sum(1) * tree["b"].flatten(1).sum(1)) - tree["b"].square().flatten(1).sum(1)


def start(n: int = 6, dim: int = 4) -> torch.Tensor:
    return torch.randn(n, dim, generator=make_generator(11))


def tree_start(n: int = 6) -> dict[str, torch.Tensor]:
    u = start(n, 6)
    return {"a": u[:, :2], "b": u[:, 2:].reshape(n, 2, 2)}


def test_without_noise_a_chain_is_gradient_ascent_exactly():
    s, u = 0.4, start()
    end, info = run_chain(langevin(skewed, s, 0.0), u, 5, make_generator(0))
    for _ in range(5):
        u = u + 0.5 * s**2 * (3 - u.exp())
    torch.testing.assert_close(end, u, rtol=1e-6, atol=1e-6)
    assert (info.logdensity[1:] > info.logdensity[:-1]).all()


def test_without_gradient_a_chain_is_a_random_walk_of_variance_n_squared_a_step():
    u = torch.zeros(50_000, 1)
    end, _ = run_chain(langevin(lambda x: 0 * x.sum(1), 0.7, 0.3), u, 4, make_generator(0))
    g = make_generator(0)
    expected = u
    for _ in range(4):
        expected = expected + 0.3 * randn(g, u.shape, u)
    assert torch.equal(end, expected)
    # relative sd of a variance sqrt(2 / N); 4 sigma: false alarm < 1e-4
    assert abs(end.var() / (4 * 0.3**2) - 1) < 4 * (2 / len(u)) ** 0.5


def test_one_step_adds_half_the_squared_step_times_the_gradient_and_noise_scale_times_noise():
    u, s, n = start(), 0.5, 0.2
    kernel = langevin(skewed, s, n)
    state, info = kernel.step(make_generator(3), kernel.init(u))
    moved = u + 0.5 * s**2 * (3 - u.exp()) + n * randn(make_generator(3), u.shape, u)
    torch.testing.assert_close(state.position, moved)
    torch.testing.assert_close(state.logdensity, skewed(moved))
    torch.testing.assert_close(state.grad, 3 - moved.exp())
    torch.testing.assert_close(info.grad_norm, (3 - u.exp()).norm(dim=1))
    torch.testing.assert_close(info.move_norm, (moved - u).norm(dim=1))
    assert info.acceptance.tolist() == [1.0] * 6


def test_diagnosed_moves_say_what_a_metropolis_test_would_accept():
    """The first proposals of both kernels are the same; the diagnosis changes no move and knows nothing of the last."""
    u, s = start(), 1.2
    end, info = run_chain(langevin(skewed, s, diagnose=True), u, 2, make_generator(3))
    _, adjusted = mala(skewed, s).step(make_generator(3), mala(skewed, s).init(u))
    torch.testing.assert_close(info.acceptance[0], adjusted.acceptance)
    assert info.acceptance[0].min() < 0.99
    assert info.acceptance[1].tolist() == [1.0] * 6
    assert torch.equal(end, run_chain(langevin(skewed, s), u, 2, make_generator(3))[0])
    _, tempered = run_chain(langevin(skewed, s, 0.1, diagnose=True), u, 2, make_generator(3))
    assert tempered.acceptance.eq(1).all()  # noise and step differ: not a proposal for this density


@pytest.mark.parametrize(("s", "n"), [(1.2, 1.2), (1.2, 0.6), (0.8, 1.1)])
def test_tempered_moves_say_what_a_metropolis_test_of_p_to_the_1_over_t_would_accept(s, n):
    """The proposal of (s, n) for p is that of step n for p^(1/T), T = (n / s)^2; the diagnosis changes no move."""
    u, temperature = start(), (n / s) ** 2
    end, info = run_chain(langevin(skewed, s, n, tempered=True), u, 2, make_generator(3))
    adjusted = mala(lambda x: skewed(x) / temperature, n)
    _, expected = adjusted.step(make_generator(3), adjusted.init(u))
    torch.testing.assert_close(info.acceptance[0], expected.acceptance, rtol=1e-4, atol=1e-6)
    assert info.acceptance[0].min() < 0.99
    assert info.acceptance[1].tolist() == [1.0] * 6
    assert torch.equal(end, run_chain(langevin(skewed, s, n), u, 2, make_generator(3))[0])


def test_a_chain_on_minus_e_is_the_chain_on_minus_e_over_t_with_step_and_noise_alike():
    """Section 1: running -E with (s, n) is running -E / T with step and noise n, T = (n / s)^2, eq. (3')."""
    s, n = 0.5, 0.1
    temperature = (n / s) ** 2
    raw, _ = run_chain(langevin(skewed, s, n), start(), 6, make_generator(0))
    tempered, _ = run_chain(langevin(lambda u: skewed(u) / temperature, n), start(), 6, make_generator(0))
    torch.testing.assert_close(raw, tempered, rtol=1e-5, atol=1e-6)


def test_a_chain_over_a_tree_is_the_chain_over_its_concatenation():
    def flat(u):
        return two_parts({"a": u[:, :2], "b": u[:, 2:].reshape(-1, 2, 2)})

    for make in (lambda f: langevin(f, 0.3), lambda f: displaced_langevin(f, 0.05, 0.02), lambda f: mala(f, 0.3)):
        generators = item_generators(0, 6), item_generators(0, 6)  # one draw per item, whatever the structure
        tree, _ = run_chain(make(two_parts), tree_start(), 4, generators[0])
        vector, _ = run_chain(make(flat), start(6, 6), 4, generators[1])
        joined = torch.cat([tree["a"], tree["b"].flatten(1)], 1)
        torch.testing.assert_close(joined, vector, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("displacement", [0.03, torch.tensor(0.03), torch.tensor([0.01, 0.02, 0.03, 0.04, 0.05, 0.0])])
def test_a_displaced_step_moves_every_item_by_d_sqrt_dim_along_its_gradient_over_all_parts_jointly(displacement):
    u = tree_start()
    kernel = displaced_langevin(two_parts, displacement, 0.0)
    state = kernel.init(u)
    after, info = kernel.step(make_generator(0), state)
    move = tree_map(torch.sub, after.position, u)
    length = torch.as_tensor(displacement).expand(6) * 6**0.5
    torch.testing.assert_close(item_square_norm(move).sqrt(), length, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(info.move_norm, length, rtol=1e-4, atol=1e-7)
    share = length / item_square_norm(state.grad).sqrt()
    torch.testing.assert_close(move["a"], share[:, None] * state.grad["a"], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(move["b"], share[:, None, None] * state.grad["b"], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("factor", [1e-6, 1e3, 1e6])
def test_a_displaced_chain_does_not_depend_on_the_scale_of_the_density(factor):
    ends = [
        run_chain(displaced_langevin(lambda u, c=c: c * cubic(u), 0.05, 0.01), start(), 5, make_generator(0))[0]
        for c in (1.0, factor)
    ]
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)


def test_a_displaced_item_without_a_gradient_moves_by_noise_alone():
    u = start()
    u[2] = 0.0
    still, _ = run_chain(displaced_langevin(lambda x: -x.square().sum(1), 0.1, 0.0), u, 1, make_generator(0))
    assert torch.equal(still[2], u[2])
    noisy, _ = run_chain(displaced_langevin(lambda x: -x.square().sum(1), 0.1, 0.5), u, 1, make_generator(0))
    assert torch.equal(noisy[2], u[2] + 0.5 * randn(make_generator(0), u.shape, u)[2])


KERNELS = pytest.mark.parametrize(
    "make", [lambda f: langevin(f, 0.3), lambda f: displaced_langevin(f, 0.05, 0.02), lambda f: mala(f, 0.4)]
)


@KERNELS
def test_the_chain_of_an_item_with_its_own_generator_is_bit_equal_alone_and_in_a_batch(make):
    u = start(37, 3)
    batch, batch_info = run_chain(make(cubic), u, 8, item_generators(5, 37))
    for item in (0, 17, 36):
        alone, alone_info = run_chain(make(cubic), u[item : item + 1], 8, item_generators(5, 1, first=item))
        assert torch.equal(alone[0], batch[item])
        assert torch.equal(alone_info.logdensity[:, 0], batch_info.logdensity[:, item])


@KERNELS
def test_the_density_of_one_item_does_not_move_another(make):
    """With a batch generator: the other items of the batch are replaced, the noise stays, item 0 does not notice."""
    u, other = start(), start()
    other[1:] = 2.0
    first, _ = run_chain(make(cubic), u, 8, make_generator(0))
    second, _ = run_chain(make(cubic), other, 8, make_generator(0))
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])


@KERNELS
def test_a_chain_replays_bit_for_bit_under_a_fixed_seed(make):
    ends = [run_chain(make(skewed), start(), 6, make_generator(9))[0] for _ in range(2)]
    assert torch.equal(*ends)
    assert not torch.equal(ends[0], run_chain(make(skewed), start(), 6, make_generator(10))[0])


@KERNELS
def test_what_a_chain_returns_has_no_graph_even_where_the_start_has_one(make):
    u = start().requires_grad_()
    weight = torch.ones(4, requires_grad=True)
    end, info = run_chain(make(lambda x: skewed(x * weight)), 2 * u, 3, make_generator(0))
    assert not end.requires_grad
    assert not info.logdensity.requires_grad
    assert u.grad is None
    assert weight.grad is None


@KERNELS
def test_a_chain_runs_where_gradients_are_switched_off(make):
    with torch.no_grad():
        inside, _ = run_chain(make(skewed), start(), 3, make_generator(0))
    assert torch.equal(inside, run_chain(make(skewed), start(), 3, make_generator(0))[0])
