"""Samples a second of resident uint8 batches (BatchStream) and of a per-item float32 DataLoader, in one run.

    python benchmarks/loading.py [--size 16] [--batch 256] [--repeats 7] [--threads 1]

All give shuffled training batches of PolyDigits in state space, five modalities and the label. Repeats alternate among
them, and medians are compared, so that a busy moment of the machine hits all. Two references: float32 items made from
the same uint8 storage, and float32 items kept in memory (four times the memory). Expected: at least 3 times each.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from multiebm.core.batch import Batch
from multiebm.data import BatchStream, MultimodalDataset, load_dataset

TARGET = 3.0


class PerItem(Dataset[tuple[dict[str, Tensor], int]]):
    """The usual way: one float32 item a call, collated by torch. Pictures are stored as uint8 and converted per item,
    or, with `converted`, kept in memory as float32 beforehand: faster, at four times the memory.
    """

    def __init__(self, dataset: MultimodalDataset, converted: bool) -> None:
        rows, parts = dataset.train, dataset.modalities
        self.views = {name: m.to_state(rows.views[name]) for name, m in parts.items()} if converted else rows.views
        self.modalities = {} if converted else parts
        self.labels = rows.labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], int]:
        views = {name: view[index] for name, view in self.views.items()}
        for name, modality in self.modalities.items():
            views[name] = modality.to_state(views[name])
        return views, self.labels[index]


def reference(items: PerItem, batch_size: int, seed: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Endless batches of a DataLoader over `items`."""
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(items, batch_size, shuffle=True, drop_last=True, generator=generator)
    while True:
        yield from loader


def samples_per_second(batches: Iterator[Batch] | Iterator[tuple], batch_size: int, n_batches: int) -> float:
    """Time `n_batches` draws."""
    start = time.perf_counter()
    for _ in range(n_batches):
        next(batches)
    return batch_size * n_batches / (time.perf_counter() - start)


def check_equal_batches(dataset: MultimodalDataset, items: PerItem) -> None:
    """Both ways must give the same numbers for the same rows."""
    batch = dataset.batch("train", torch.arange(8))
    for i in range(8):
        views, label = items[i]
        assert label == int(batch.labels[i])
        for name, view in views.items():
            torch.testing.assert_close(view, batch.views[name][i], rtol=0, atol=0)


def machine() -> str:
    """CPU model, cores and versions."""
    info = Path("/proc/cpuinfo")
    models = (
        [x.split(":")[1].strip() for x in info.read_text().splitlines() if "model name" in x] if info.exists() else []
    )
    cpu = models[0] if models else platform.processor() or platform.machine()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{cpu}, {os.cpu_count()} cores{load}, torch {torch.__version__}, {torch.get_num_threads()} thread(s)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=16, help="pixels a side, 16 or 28")
    parser.add_argument("--batch", type=int, default=256, help="tuples a batch")
    parser.add_argument("--repeats", type=int, default=7, help="timed repeats of each")
    parser.add_argument("--batches", type=int, default=60, help="batches a repeat")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    dataset = load_dataset("polydigits", {"size": args.size})
    references = {"DataLoader, float32 per item": False, "DataLoader, float32 in memory": True}
    ways: dict[str, Iterator[Batch] | Iterator[tuple]] = {}
    for way, converted in references.items():
        items = PerItem(dataset, converted)
        check_equal_batches(dataset, items)
        ways[way] = reference(items, args.batch, seed=0)
    ways["BatchStream, resident uint8"] = BatchStream(dataset, "train", args.batch, seed=0)
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(args.repeats + 1):
        for way, batches in ways.items():
            rate = samples_per_second(batches, args.batch, args.batches)
            if repeat > 0:  # the first is a warm-up
                rates[way].append(rate)

    print(f"{machine()}\nPolyDigits {args.size}x{args.size}, {len(dataset.modalities)} modalities, batch {args.batch}")
    print(f"{'':32}{'samples/s (median)':>20}{'lowest':>12}{'highest':>12}")
    for way, values in rates.items():
        print(f"{way:32}{statistics.median(values):>20,.0f}{min(values):>12,.0f}{max(values):>12,.0f}")
    fast = statistics.median(rates["BatchStream, resident uint8"])
    for way in references:
        ratio = fast / statistics.median(rates[way])
        print(f"ratio to {way}: {ratio:.2f}, target {TARGET:.0f} {'reached' if ratio >= TARGET else 'MISSED'}")


if __name__ == "__main__":
    main()
