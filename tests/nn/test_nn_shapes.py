"""Networks of pictures of any sides: shapes, gradients, and that height and width are not mistaken for each other."""

import pytest
import torch
from torch import Tensor, nn

from multiebm.core.random import make_generator
from multiebm.evaluation.judges import Judge
from multiebm.modalities import Modality, Picture, PictureNetworks
from multiebm.models.energy import EnergyNetwork
from multiebm.nn.blocks import stages_before
from multiebm.nn.pictures import shifted
from multiebm.nn.precision import Mixed, set_precision

SIDES = [(1, 1), (2, 2), (3, 3), (1, 16), (16, 1), (5, 7), (16, 8), (8, 16), (16, 15), (17, 17), (28, 20), (9, 9)]
SIDES += [(33, 64), (2, 1), (4, 31), (100, 3), (65, 40)]
KINDS = {kind: PictureNetworks(kind, 4) for kind in ("resnet", "mmvaeplus", "conv")}


def picture(sides: tuple[int, int], channels: int = 3) -> Modality:
    return Picture("p", (channels, *sides))


def items(modality: Modality, n: int = 6) -> Tensor:
    return torch.rand(n, *modality.shape, generator=make_generator(0)) * 2 - 1


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def without_gradient(net: nn.Module) -> list[str]:
    return [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sides", SIDES, ids=str)
def test_encoders_and_decoders_fit_every_picture_and_learn_whole(sides, kind):
    for channels in (1, 2, 3, 4, 5, 16) if sides in ((16, 8), (9, 9)) else (3,):
        part = picture(sides, channels)
        encoder = seeded(lambda part=part: part.encoder(5, KINDS[kind]))
        decoder = seeded(lambda part=part: part.decoder(5, KINDS[kind]))
        x = items(part)
        code = encoder(x)
        shown = decoder(torch.randn(6, 5, generator=make_generator(1)))
        assert code.shape == (6, 5)
        assert shown.shape == x.shape
        assert shown.isfinite().all()
        assert (shown[0] != shown[1]).float().mean() > 0.9  # the code reaches every pixel
        (code.square().sum() + (shown - x).square().sum()).backward()
        assert without_gradient(encoder) == without_gradient(decoder) == []


@pytest.mark.parametrize("sides", SIDES, ids=str)
def test_energies_fit_every_picture_and_see_every_pixel(sides):
    for channels in (1, 2, 3, 4, 5, 16) if sides in ((16, 8), (9, 9)) else (3,):
        parts = {name: Picture(name, (channels, *sides)) for name in ("a", "b")}
        for fusion in ("early", "late"):
            net = seeded(lambda f=fusion, p=parts: EnergyNetwork(p, 16, f))
            views = {name: items(part).requires_grad_() for name, part in parts.items()}
            energy = net(views)
            assert energy.shape == (6,)
            energy.sum().backward()
            assert without_gradient(net) == []
            for view in views.values():
                assert (view.grad.abs().sum((0, 1)) > 0).all()


def turned(net: nn.Module) -> nn.Module:
    """The network with the kernels of its convolutions turned over: height for width."""
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                layer.weight.copy_(layer.weight.mT.clone())
    return net


@pytest.mark.parametrize("kind", ["resnet", "conv"])
@pytest.mark.parametrize("sides", [(16, 8), (5, 7), (1, 16), (33, 6)], ids=str)
def test_a_picture_on_its_side_passes_the_maps_of_the_upright_one_on_their_side(sides, kind):
    """Turned kernels on the turned picture give turned maps, so that rows and columns are treated alike."""
    tall, wide = picture(sides), picture(sides[::-1])
    encoders = [seeded(lambda m=m: m.encoder(5, KINDS[kind])) for m in (tall, wide)]
    decoders = [seeded(lambda m=m: m.decoder(5, KINDS[kind])) for m in (tall, wide)]
    for group in (encoders, decoders):
        own = zip(group[1].state_dict().items(), group[0].state_dict().values(), strict=True)
        group[1].load_state_dict({name: v for (name, mine), v in own if v.shape == mine.shape}, strict=False)
        turned(group[1])
    with torch.no_grad():
        maps = [e[0].net(items(tall) if e is encoders[0] else items(tall).mT) for e in encoders if kind != "conv"]
        if kind == "conv":
            maps = [e[0].net[:-2](x) for e, x in zip(encoders, (items(tall), items(tall).mT), strict=True)]
        torch.testing.assert_close(maps[1], maps[0].mT)
        start = torch.randn(2, *decoders[0].first, generator=make_generator(1))
        shown = [d.net(x) for d, x in zip(decoders, (start, start.mT), strict=True)]
        torch.testing.assert_close(shown[1], shown[0].mT)
    assert shown[0].shape[2:] == sides


@pytest.mark.parametrize("sides", SIDES, ids=str)
def test_judges_fit_every_picture_and_moving_it_keeps_its_sides(sides):
    part = picture(sides)
    judge = seeded(lambda: Judge(part, 4, 2))
    x = items(part)
    logits = judge(x)
    assert logits.shape == (6, 4)
    logits.square().sum().backward()
    assert without_gradient(judge) == []
    for seed in range(9):
        moved = shifted(x, make_generator(seed))
        assert moved.shape == x.shape
        assert torch.isin(moved, x).all()  # no pixel comes from outside


def test_a_picture_of_one_pixel_a_side_moves_along_the_other_alone():
    line = torch.arange(5.0).expand(1, 1, 1, 5)
    found = {tuple(shifted(line, make_generator(seed)).flatten().tolist()) for seed in range(20)}
    assert found == {(1, 0, 1, 2, 3), (0, 1, 2, 3, 4), (1, 2, 3, 4, 3)}


def test_long_pictures_are_judged_from_maps_of_at_most_seven_a_side():
    body = Judge(picture((4, 512)), 3, 2).body
    assert next(layer for layer in body if isinstance(layer, nn.Linear)).in_features == 8 * 4 * 4


@pytest.mark.parametrize("sides", [(512, 512), (512, 3), (128, 96)], ids=str)
def test_large_pictures_have_small_last_maps(sides):
    """512 pixels a side are halved six times; nothing linear grows with the picture."""
    part, settings = picture(sides), [PictureNetworks(kind, 16) for kind in ("resnet", "conv")]
    for networks in settings:
        encoder, decoder = part.encoder(5, networks), part.decoder(5, networks)
        assert sum(p.numel() for net in (encoder, decoder) for p in net.parameters()) < 2.5e6
    x, encoder = items(part, 1), part.encoder(5, KINDS["resnet"])
    nets = [encoder, Judge(part, 4, 2).eval(), part.energy_trunk([part], 4)]
    nets += [nn.Sequential(encoder, part.decoder(5, KINDS["resnet"]))]
    for net, shape in zip(nets, [(1, 5), (1, 4), (1, 4), x.shape], strict=True):
        out = net(x)
        assert out.shape == shape
        out.square().sum().backward()
        assert without_gradient(net) == []


@pytest.mark.parametrize(("side", "stages"), [(1, []), (32, []), (33, [16]), (128, [8, 16]), (512, [8, 8, 8, 16])])
def test_a_stage_comes_before_the_usual_ones_for_each_doubling_above_32_pixels(side, stages):
    assert stages_before((side, 5), 32) == stages_before((5, side), 32) == stages


@pytest.mark.parametrize("kind", [*KINDS, "energy", "decoder", "plain decoder"])
@pytest.mark.parametrize("sides", [(1, 1), (3, 3), (1, 16), (16, 1), (5, 7), (16, 2), (50, 3), (3, 50)], ids=str)
def test_gradients_in_bf16_are_those_of_fp32_roughly_on_the_smallest_maps_too(sides, kind):
    """Convolutions that step across a map and leave it one pixel wide read unset memory in bf16 on CPUs with AMX."""
    part = picture(sides)
    x = torch.randn(16, 5, generator=make_generator(0)) if "decoder" in kind else items(part, 16)
    made = {
        "energy": lambda: part.energy_trunk([part], 8).eval(),
        "decoder": lambda: part.decoder(5, KINDS["resnet"]),
        "plain decoder": lambda: part.decoder(5, KINDS["conv"]),
    }
    for seed in range(3):
        net = Mixed(seeded(made.get(kind, lambda: part.encoder(10, KINDS[kind])))).to(memory_format=torch.channels_last)
        if kind in KINDS:
            with torch.no_grad():
                net.net[-1].weight.normal_(generator=make_generator(seed))
        found = []
        for precision in ("fp32", "bf16"):
            junk = [torch.full((n,), torch.nan) for n in (64, 512, 4096, 20000)]
            del junk
            set_precision(net, precision)
            net.zero_grad()
            net(x).square().sum().backward()
            found.append([p.grad for p in net.parameters()])
        for exact, rough in zip(*found, strict=True):
            assert (exact - rough).norm() <= 0.2 * exact.norm()
