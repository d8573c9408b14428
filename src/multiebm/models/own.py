"""Networks of the user's own for single parts: made by functions that are handed over in Python, and tried at once.

A configuration and a saved model hold the names of these functions, never code. A network is used as it stands in
evaluation mode; in training it is in training mode, but for the chains.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from multiebm.core.errors import ConfigError
from multiebm.modalities import Modality

ModelT = TypeVar("ModelT", bound=nn.Module)
Maker = Callable[[Modality, int], nn.Module]
KINDS = ("encoder", "decoder")


class Own(NamedTuple):
    """What makes encoders (states [B, *shape] -> [B, n]) and decoders ([B, n] -> mean states [B, *shape]), by part: a
    class or function that takes the modality and n.
    """

    encoder: Mapping[str, Maker] = {}
    decoder: Mapping[str, Maker] = {}

    def names(self) -> dict[str, dict[str, str]]:
        """Return module and qualified name of each, by kind and part."""
        return {kind: {part: name_of(maker) for part, maker in getattr(self, kind).items()} for kind in KINDS}


def handed_over(encoders: Mapping[str, Maker] | None, decoders: Mapping[str, Maker] | None) -> Own:
    """Return what a user hands over; ConfigError says what is no class or function of a modality and a number."""
    given, problems = (encoders or {}, decoders or {}), list[str]()
    for kind, makers in zip(KINDS, given, strict=True):
        if not isinstance(makers, Mapping):
            raise ConfigError(f"{kind}s: got {type(makers).__name__}, expected a dict by part, {{'photo': MyNet}}")
        for part, maker in makers.items():
            where = f"{kind}s, part {part!r}"
            if isinstance(maker, nn.Module) or not callable(maker):
                what = "a network" if isinstance(maker, nn.Module) else repr(maker)
                problems.append(
                    f"{where}: got {what}, expected the class or function that makes one, of a modality and a number: "
                    "it is made anew wherever the model is loaded"
                )
            elif not _takes_two(maker):
                problems.append(
                    f"{where}: got {name_of(maker)}, which does not take two arguments, expected {_SIGNATURE[kind]}"
                )
    if problems:
        raise ConfigError(problems)
    return Own(*given)


_SIGNATURE = {
    "encoder": "(modality, n_out), of a network of states [B, *modality.shape] -> [B, n_out]",
    "decoder": "(modality, n_in), of a network [B, n_in] -> mean states [B, *modality.shape]",
}


def _takes_two(maker: Maker) -> bool:
    try:
        inspect.signature(maker).bind(None, 1)
    except TypeError:
        return False
    except ValueError:  # one that says nothing of its arguments
        return True
    return True


def name_of(maker: Any) -> str:
    """Return module and qualified name of a class or function, or of what a partial calls: "my_nets.Photo"."""
    of = getattr(maker, "func", maker)
    of = of if hasattr(of, "__qualname__") else type(of)
    return f"{of.__module__}.{of.__qualname__}"


class OwnNetwork(nn.Module):
    """`net` on rows [B, ...] -> [B, *shape], contiguous in memory, so that it may use `view`.

    Of no rows it is not asked. Of a single one in training it is asked in evaluation mode: batch statistics of one row
    say nothing, and torch refuses them.
    """

    def __init__(self, net: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.net, self.shape = net, shape

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, ...] to [B, *shape]; B may be 0."""
        if not len(x):
            return x.new_zeros(0, *self.shape)
        if len(x) > 1 or not self.training:
            return self.net(x.contiguous())
        with evaluating(self.net):
            return self.net(x.contiguous())


def make_own(kind: str, maker: Maker, m: Modality, n: int, draws: torch.Generator) -> OwnNetwork:
    """Return the network of a kind that `maker` makes for a modality and `n`, with weights that `draws` decides.

    It is tried on two items. ConfigError names part and shape where it is none, gives another shape, weights that are
    not float32, or rows that depend on each other.
    """
    where = f"{kind}s, part {m.name!r}: {name_of(maker)}"
    shape = (n,) if kind == "encoder" else m.shape
    seed = int(torch.randint(2**31, (), generator=draws))
    with torch.random.fork_rng(devices=[]):  # a network may draw its weights from the global generator
        torch.manual_seed(seed)
        net = maker(m, n)
        if not isinstance(net, nn.Module):
            raise ConfigError(f"{where}: got {type(net).__name__}, expected a torch.nn.Module; return the network")
        x = torch.rand(2, *(m.shape if kind == "encoder" else (n,)))
        if kind == "encoder" and m.lacks_cells:
            x[1].view(-1)[0] = torch.nan
        try:
            with torch.no_grad(), evaluating(net):
                both, alone = net(x), net(x[:1])
        except (RuntimeError, ValueError, TypeError, LookupError) as error:
            got = f"an error ({error}) for inputs of shape {list(x.shape)}"
            raise ConfigError(f"{where}: got {got}, expected outputs of shape {[2, *shape]}; correct it") from error
    if not isinstance(both, Tensor) or both.shape != (2, *shape):
        got = f"shape {list(both.shape)}" if isinstance(both, Tensor) else type(both).__name__
        raise ConfigError(
            f"{where}: got {got} for inputs of shape {list(x.shape)}, expected a tensor of shape {[2, *shape]}, for "
            f"{_SIGNATURE[kind]}"
        )
    if not both.isfinite().all():
        fix = "WithGaps() of multiebm.nn.blocks, which doubles the columns, reads the NaN of missing cells"
        fix = f"; {fix}" if x.isnan().any() else ""
        raise ConfigError(f"{where}: got NaN or infinite outputs of two items, expected finite ones{fix}")
    if not torch.allclose(both[:1], alone, rtol=1e-3, atol=1e-4):
        raise ConfigError(
            f"{where}: got another output for an item beside another than for it alone, expected rows that do not "
            "depend on each other in evaluation mode; use BatchNorm with running statistics, LayerNorm or GroupNorm"
        )
    wrong = [name for name, t in net.state_dict().items() if t.is_floating_point() and t.dtype != torch.float32]
    if wrong:
        raise ConfigError(f"{where}: got weights ({wrong[0]}) that are not float32, expected these; call .float()")
    return OwnNetwork(net, shape)


def laid_out(model: ModelT) -> ModelT:
    """Return `model`, its weights of convolutions channels-last in memory, but for those of the user's own."""
    own = {id(p) for part in model.modules() if isinstance(part, OwnNetwork) for p in part.parameters()}
    for parameter in model.parameters():
        if parameter.dim() == 4 and id(parameter) not in own:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    return model


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Inside: evaluation mode; afterwards every module of `net` is in the mode it was in."""
    training = [part for part in net.modules() if part.training]
    net.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
