"""Energy networks: who depends on whom, what spectral norm bounds, and the printed sizes."""

import pytest
import torch

from multiebm.core.errors import ConfigError
from multiebm.modalities import Modality, Picture, Text, Vector
from multiebm.models.energy import EnergyNetwork
from multiebm.nn.blocks import PictureTrunk
from multiebm.nn.precision import Mixed, set_precision
from multiebm.nn.spectral import Spectral
from small_models import mixed, random_views, small_model, vectors, whole

PICTURES = {name: Picture(name, (3, 8, 8)) for name in ("one", "two")}
CAPTIONED = {"seen": Picture("seen", (3, 8, 8)), "said": Text("said", ("a", "red", "green", "dot"), 5)}
PROBLEMS = {"vectors": vectors(left=2, right=3), "pictures": PICTURES, "mixed": mixed(), "captions": CAPTIONED}


def network(modalities: dict[str, Modality], fusion: str, width: int = 32) -> EnergyNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = EnergyNetwork(modalities, width, fusion)
    return made.eval().double()


def second_difference(net: EnergyNetwork, modalities: dict[str, Modality], first: str, second: str) -> torch.Tensor:
    """E(x, t) - E(x', t) - E(x, t') + E(x', t'), all other parts alike: 0 if and only if x and t do not interact."""
    x, other = (random_views(modalities, 16, seed=s) for s in (0, 1))
    total = torch.zeros(16, dtype=torch.float64)
    with torch.no_grad():
        for sign, a, b in ((1, x, x), (-1, other, x), (-1, x, other), (1, other, other)):
            views = {name: view.double() for name, view in (x | {first: a[first], second: b[second]}).items()}
            total += sign * net_in_double(net, views)
    return total


def net_in_double(net: EnergyNetwork, views: dict[str, torch.Tensor]) -> torch.Tensor:
    """The energy without the cast to float32 that ends every trunk."""
    features = [net.trunks[g].net(*[views[n] for n in names]) for g, names in net.groups.items()]
    return net.head(torch.cat(features, 1))[:, 0]


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("fusion", ["early", "late", "additive"])
def test_only_the_additive_energy_has_no_interaction_between_any_two_modalities(problem, fusion):
    """Section 14.6. Under an additive energy pi is a product, and refining one part never looks at another."""
    modalities = PROBLEMS[problem]
    names = list(modalities)
    net = network(modalities, fusion)
    for first, second in [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]:
        difference = second_difference(net, modalities, first, second).abs().max().item()
        if fusion == "additive":
            assert difference < 1e-13
        else:
            assert difference > 1e-7


@pytest.mark.parametrize("interaction", [None, {"kind": "pair"}, {"kind": "mlp"}])
@pytest.mark.parametrize("fusion", ["late", "additive"])
def test_a_score_by_an_additive_energy_alone_cannot_tell_a_caption_of_another_picture(fusion, interaction):
    """Of two pictures that swap captions one gains what the other loses: exactly chance, whatever was learned."""
    model = small_model(CAPTIONED, energy={"width": 8, "fusion": fusion}, interaction=interaction).eval()
    if model.interaction is not None:
        model.interaction.weight.fill_(1)
    true, swapped = random_views(CAPTIONED, 64), torch.arange(64) ^ 1
    wrong = true | {"said": true["said"][swapped]}
    with torch.no_grad():
        scores = [model.score_states(whole(views)) for views in (true, wrong)]
        energies = [model.energy(views) for views in (true, wrong)]
    told = float((scores[0] > scores[1]).double().mean())  # of true pairs, each beside its picture with another caption
    gained = (scores[0] - scores[1]).view(-1, 2).sum(1)  # a mixed second difference of each pair of items
    if fusion == "additive" and interaction is None:
        assert told == 0.5
        torch.testing.assert_close(gained, torch.zeros(32), rtol=0, atol=1e-6)
    else:
        assert gained.abs().max() > 1e-6
    if fusion == "additive":  # what an energy of interaction adds is all there is of it
        torch.testing.assert_close((energies[1] - energies[0]).view(-1, 2).sum(1), torch.zeros(32), rtol=0, atol=1e-6)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("fusion", ["early", "late", "additive"])
def test_there_is_one_energy_per_item_and_no_item_sees_another(problem, fusion):
    modalities = PROBLEMS[problem]
    net = network(modalities, fusion).float()
    views = random_views(modalities, 5)
    with torch.no_grad():
        energy = net(views)
        alone = torch.stack([net({n: v[i : i + 1] for n, v in views.items()})[0] for i in range(5)])
    assert energy.shape == (5,)
    assert energy.dtype == torch.float32
    torch.testing.assert_close(energy, alone, rtol=1e-4, atol=1e-6)
    assert energy.std() > 0


@pytest.mark.parametrize("fusion", ["early", "late", "additive"])
def test_every_modality_has_a_say_in_the_energy_and_its_gradient(fusion):
    net = network(mixed(), fusion).float()
    views = {name: view.requires_grad_() for name, view in random_views(mixed(), 6).items()}
    for grad in torch.autograd.grad(net(views).sum(), list(views.values())):
        assert (grad.flatten(1).abs().sum(1) > 0).float().mean() > 0.5


def test_spectral_norm_is_on_every_weight_and_converges_to_1():
    net = network(mixed(), "late").float().train()
    views = random_views(mixed(), 2)
    for _ in range(300):  # each forward pass in training mode is one power iteration
        net(views)
    net.eval()
    layers = [m for m in net.modules() if isinstance(m, Spectral)]
    assert len(layers) > 10
    for layer in layers:
        largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2).item()
        assert largest == pytest.approx(1, abs=0.01)


def test_the_late_energy_of_vectors_moves_no_faster_than_its_input():
    """Layers have norm 1 and ReLU is 1-Lipschitz: |E(x) - E(y)| <= |x - y|, trunks side by side under one head."""
    modalities = vectors(left=2, right=3)
    net = network(modalities, "late").float().train()
    x, y = (random_views(modalities, 200, seed=s) for s in (0, 1))
    for _ in range(300):
        net(x)
    net.eval()
    with torch.no_grad():
        slope = (net(x) - net(y)).abs() / torch.cat([x[n] - y[n] for n in x], 1).norm(dim=1)
    assert slope.max() <= 1.02


def test_the_printed_polymnist_network_has_its_size():
    """Five 28 x 28 pictures, width 128, 32 channels a stem: 1.26 million parameters (section 2.1)."""
    net = PictureTrunk([3] * 5, 128, blocks=2, stem=32)
    head = EnergyNetwork({f"m{i}": Picture(f"m{i}", (3, 28, 28)) for i in range(5)}, 128, "early").head
    count = sum(p.numel() for part in (net, head) for p in part.parameters())
    stems, nc, w = 5 * (3 * 32 * 9 + 32), 160, 128
    assert count == stems + (10 * nc * w + 9 * w * w) + 19 * w * w + 18 * w * w + 18 * w * w + w
    assert round(count / 1e6, 2) == 1.26
    assert net.eval()(*[torch.zeros(2, 3, 28, 28)] * 5).shape == (2, 128)


def test_pictures_of_different_sizes_need_late_fusion():
    modalities = {"one": PICTURES["one"], "big": Picture("big", (3, 16, 16))}
    with pytest.raises(ConfigError, match="early needs pictures of one size.*use fusion: late"):
        network(modalities, "early")
    assert network(modalities, "late").float()(random_views(modalities, 2)).shape == (2,)


def test_a_kind_that_is_no_row_of_the_table_has_a_trunk_of_its_own():
    class Foreign(Vector):
        kind = "foreign"

    modalities = PICTURES | {"other": Foreign("other", (2,))}
    views = random_views(modalities, 2)
    net = network(modalities, "early").float().eval()
    assert not torch.equal(net(views), net(views | {"other": views["other"] + 1}))


def test_an_unknown_fusion_is_refused():
    with pytest.raises(ConfigError, match="got 'middle', expected early, late or additive"):
        network(PICTURES, "middle")


def test_bf16_networks_give_float32_energies_close_to_those_of_fp32():
    views = random_views(mixed(), 8)
    net = network(mixed(), "late").float()
    with torch.no_grad():
        exact = net(views)
        set_precision(net, "bf16")
        rough = net(views)
        assert all(part.bf16 for part in net.modules() if isinstance(part, Mixed))
        set_precision(net, "fp32")
        again = net(views)
    assert rough.dtype == torch.float32
    assert torch.equal(exact, again)
    assert not torch.equal(exact, rough)
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.05 * exact.abs().max().item())
