"""Independent networks side by side: the modalities of one model, one thread each, forwards and backwards.

Small convolutions gain little from splitting one of them over threads. Several of them at once do: while one thread
waits for Python, the others compute.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

Inputs = Sequence[tuple[Tensor, ...]]


def side_by_side(nets: Sequence[nn.Module], inputs: Inputs) -> list[Tensor]:
    """Return [net(*args) for net, args in zip(nets, inputs)], computed by as many threads as torch may use.

    On the CPU and with more than one network and thread; in turn otherwise. Every network returns one tensor and is
    computed by one thread, so the values do not depend on how many there are.
    """
    threads = min(torch.get_num_threads(), len(nets))
    if threads < 2 or any(x.device.type != "cpu" for args in inputs for x in args):
        return [net(*args) for net, args in zip(nets, inputs, strict=True)]
    parameters = [[p for p in net.parameters() if p.requires_grad] for net in nets]
    sizes = [(len(args), len(own)) for args, own in zip(inputs, parameters, strict=True)]
    flat = [x for args, own in zip(inputs, parameters, strict=True) for x in (*args, *own)]
    if not torch.is_grad_enabled() or not any(x.requires_grad for x in flat):
        return _each(threads, [_plain(net, args) for net, args in zip(nets, inputs, strict=True)])
    return list(_SideBySide.apply(threads, nets, sizes, *flat))


class _SideBySide(torch.autograd.Function):
    """One node in the graph for all networks; each has a graph of its own behind it, walked by its own thread."""

    @staticmethod
    def forward(
        ctx: Any, threads: int, nets: Sequence[nn.Module], sizes: list[tuple[int, int]], *flat: Tensor
    ) -> tuple[Tensor, ...]:
        rest, leaves, jobs = list(flat), [], []
        for net, (n_args, n_parameters) in zip(nets, sizes, strict=True):
            args = [x.detach().requires_grad_(x.requires_grad) for x in rest[:n_args]]
            leaves.append([*args, *rest[n_args : n_args + n_parameters]])
            rest = rest[n_args + n_parameters :]
            jobs.append(_with_graph(net, args))
        ctx.threads, ctx.leaves = threads, leaves
        ctx.outputs = _each(threads, jobs)
        return tuple(output.detach() for output in ctx.outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        jobs = [_gradients(o, own, g) for o, own, g in zip(ctx.outputs, ctx.leaves, gradients, strict=True)]
        return (None, None, None, *[grad for found in _each(ctx.threads, jobs) for grad in found])


def _plain(net: nn.Module, args: Sequence[Tensor]) -> Callable[[], Tensor]:
    grad = torch.is_grad_enabled()  # threads do not inherit it

    def call() -> Tensor:
        with torch.set_grad_enabled(grad):
            output: Tensor = net(*args)
            return output

    return call


def _with_graph(net: nn.Module, args: Sequence[Tensor]) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.enable_grad():
            output: Tensor = net(*args)
            return output

    return call


def _gradients(output: Tensor, leaves: list[Tensor], gradient: Tensor) -> Callable[[], list[Tensor | None]]:
    def call() -> list[Tensor | None]:
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        if not wanted:
            return [None] * len(leaves)
        found = iter(torch.autograd.grad(output, wanted, gradient, retain_graph=True, allow_unused=True))
        return [next(found) if leaf.requires_grad else None for leaf in leaves]

    return call


def _each(threads: int, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    return [future.result() for future in [_pool(threads).submit(job) for job in jobs]]


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "multiebm-network", initializer=_alone)


def _alone() -> None:
    """Let a worker compute alone: torch's own threads per operation would only wait for each other."""
    torch.set_num_threads(1)
