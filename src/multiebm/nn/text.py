"""Networks of captions: encoders, decoders, the energy's trunk and a judge's, all of states [B, T, V].

A state has V numbers for each of T positions, and the token of a position is the nearest one-hot row, its argmax.
Whatever reads states reads these rows, of data, of a decoder and of a chain alike, and gradients go straight through
(Bengio et al. 2013, arXiv 1308.3432). A soft mixture of words would tell an energy samples from data at a glance.

`cnn` are the caption networks of MMVAE+ (Palumbo et al. 2023) in small form: words are channels, positions are
convolved. `transformer` has two layers of attention whose norms come first (Xiong et al. 2020, arXiv 2002.04745). Both
decoders make all positions at once, each given the latents alone, as the likelihood assumes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from multiebm.core.tokens import tokens_of
from multiebm.nn.blocks import mlp
from multiebm.nn.spectral import Spectral

LAYERS, HEADS, WIDER = 2, 4, 2  # of transformers, and how much wider than it is the inside of a layer
TOLD = 4  # times their width that networks have between latents and words
STRIDES = 2  # of convolutions, each of which halves the positions


def rows_read(state: Tensor, rows: Tensor, moved: bool = True) -> Tensor:
    """Return the rows of a table [V, K] that the tokens of states [B, T, V] name: [B, T, K].

    The gradient in a state is that of a product with the table, straight through the choice of a token; none where it
    is not `moved`.
    """
    read = F.embedding(tokens_of(state), rows)
    if not (moved and state.requires_grad):
        return read
    return read + (state - state.detach()) @ rows.detach()  # 0, with a gradient


class Words(nn.Module):
    """A learned vector for each token: states [B, T, V] -> [B, width, T]."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.empty(size, width))
        nn.init.normal_(self.rows, std=0.5)

    def forward(self, state: Tensor) -> Tensor:
        """Return [B, width, T]."""
        return rows_read(state, self.rows).transpose(1, 2)


class Block(nn.Module):
    """Attention and an MLP of one hidden layer, each added to what it reads: [B, T, width] -> [B, T, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = HEADS if width % HEADS == 0 else 1
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.look, self.say = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.net = nn.Sequential(nn.Linear(width, WIDER * width), nn.GELU(), nn.Linear(WIDER * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, T, width] to [B, T, width]."""
        each = self.look(self.first(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.say(F.scaled_dot_product_attention(*each).transpose(1, 2).flatten(2))
        return x + self.net(self.second(x))


class TransformerEncoder(nn.Module):
    """States [B, T, V] -> [B, n_out], by a vector that looks at all positions."""

    def __init__(self, length: int, size: int, width: int, n_out: int) -> None:
        super().__init__()
        self.words, self.places = Words(size, width), nn.Parameter(torch.empty(length + 1, width))
        nn.init.normal_(self.places, std=0.5)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(LAYERS)))
        self.head = nn.Sequential(nn.LayerNorm(width), _between(width, width, n_out))

    def forward(self, state: Tensor) -> Tensor:
        """Map [B, T, V] to [B, n_out]."""
        read = F.pad(self.words(state).transpose(1, 2), (0, 0, 0, 1)) + self.places
        return self.head(self.blocks(read)[:, -1])


class TransformerDecoder(nn.Module):
    """Latents [B, n_in] -> what each position says of each token [B, T * V], before a softmax."""

    def __init__(self, length: int, size: int, width: int, n_in: int) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.empty(length, width))
        self.whole = _between(width, n_in, length * width)  # what each position is told
        nn.init.normal_(self.places, std=0.5)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(LAYERS)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, size))

    def forward(self, z: Tensor) -> Tensor:
        """Map [B, n_in] to [B, T * V]."""
        return self.head(self.blocks(self.whole(z).unflatten(1, self.places.shape) + self.places)).flatten(1)


def _between(width: int, n_in: int, n_out: int) -> nn.Sequential:
    """Return an MLP of two hidden layers, [B, n_in] -> [B, n_out].

    Latents that pictures have shaped say little of what is shown along straight lines: a word depends on several of
    them together.
    """
    return mlp([n_in, TOLD * width, TOLD * width, n_out], nn.ReLU())


def _halvings(length: int) -> list[int]:
    """Return how many positions there are, and what each stride leaves of them."""
    sizes = [length]
    for _ in range(STRIDES):
        sizes.append((sizes[-1] + 1) // 2)
    return sizes


def cnn_encoder(length: int, size: int, width: int, n_out: int) -> nn.Sequential:
    """Return convolutions over positions and a linear layer: states [B, T, V] -> [B, n_out]."""
    layers: list[nn.Module] = [Words(size, width), nn.Conv1d(width, width, 3, padding=1), nn.ReLU()]
    for _ in range(STRIDES):
        layers += [nn.Conv1d(width, width, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), _between(width, _halvings(length)[-1] * width, n_out))


class CnnDecoder(nn.Module):
    """Latents [B, n_in] -> what each position says of each token [B, T * V], by convolutions that double positions."""

    def __init__(self, length: int, size: int, width: int, n_in: int) -> None:
        super().__init__()
        self.sizes = _halvings(length)
        self.first = _between(width, n_in, width * self.sizes[-1])
        self.stages = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1) for _ in range(STRIDES))
        self.head = nn.Linear(width, size)

    def forward(self, z: Tensor) -> Tensor:
        """Map [B, n_in] to [B, T * V]."""
        x = F.relu(self.first(z)).unflatten(1, (-1, self.sizes[-1]))
        for places, stage in zip(self.sizes[-2::-1], self.stages, strict=True):
            x = F.relu(stage(x.repeat_interleave(2, 2)[:, :, :places]))
        return self.head(x.transpose(1, 2)).flatten(1)


def _conv(n_in: int, n_out: int) -> Spectral:
    """Return a convolution over three neighbours on the last axis, [B, n_in, 1, T] -> [B, n_out, 1, T]."""
    conv = nn.Conv2d(n_in, n_out, (1, 3), padding=(0, 1))
    nn.init.xavier_normal_(conv.weight)
    return Spectral(conv)


class Stem(nn.Module):
    """One caption for an energy: states [B, T, V] -> [B, width], with spectral norm.

    Rows of a table of V tokens shrink by sqrt(V) as its norm becomes 1, and are that much larger again.
    """

    def __init__(self, length: int, size: int, width: int, moved: bool) -> None:
        super().__init__()
        self.moved, self.larger = moved, size**0.5
        self.rows = Spectral(nn.Linear(size, width, bias=False))
        self.first, self.second = _conv(width, width), _conv(width, width)
        self.last = Spectral(nn.Linear(width * -(-length // 2), width))

    def forward(self, state: Tensor) -> Tensor:
        """Map [B, T, V] to [B, width]."""
        x = rows_read(state, self.larger * self.rows.weight.T, self.moved).transpose(1, 2)[:, :, None]
        x = F.avg_pool2d(F.relu(self.first(x)), (1, 2), ceil_mode=True)
        return self.last(F.relu(self.second(x)).flatten(1))


class TextTrunk(nn.Module):
    """M captions [B, T_m, V_m] -> [B, width]: a stem each, and a layer over them."""

    def __init__(self, shapes: list[tuple[int, int]], width: int, moved: list[bool]) -> None:
        super().__init__()
        self.stems = nn.ModuleList(Stem(*shape, width, own) for shape, own in zip(shapes, moved, strict=True))
        self.last = Spectral(nn.Linear(width * len(shapes), width))

    def forward(self, *states: Tensor) -> Tensor:
        """Map captions [B, T_m, V_m] to features [B, width]."""
        each = [F.relu(stem(state)) for stem, state in zip(self.stems, states, strict=True)]
        return F.relu(self.last(torch.cat(each, 1)))


class Judge(nn.Module):
    """States [B, T, V] -> [B, n_features], by what three neighbouring words say most of anywhere."""

    def __init__(self, size: int, width: int, n_features: int) -> None:
        super().__init__()
        self.net = nn.Sequential(Words(size, width), nn.Conv1d(width, n_features, 3, padding=1), nn.ReLU())

    def forward(self, state: Tensor) -> Tensor:
        """Map [B, T, V] to [B, n_features]."""
        return self.net(state).amax(2)
