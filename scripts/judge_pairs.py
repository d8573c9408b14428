"""Says how well the judge of pictures and captions tells real test pairs of a data set: the ceiling of its figures.

python scripts/judge_pairs.py cub --folder FOLDER --size 64
"""

import argparse
from time import perf_counter

from multiebm.data import load_dataset
from multiebm.data.cache import cache_root
from multiebm.evaluation.lite0 import WITHOUT, load_lite0
from multiebm.evaluation.measurement import Measurement
from multiebm.evaluation.pairs import RANKS, load_pairs, paired, retrieval

NAMES = dict.fromkeys(("real/pair_auroc", "real/pair_score", "shuffled/pair_score"), paired)
NAMES |= {f"retrieval/at{k}": retrieval for k in RANKS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=("cub", "coco"), help="a data set of photographs with captions")
    parser.add_argument("--folder", required=True, help="where its download was unpacked")
    parser.add_argument("--size", type=int, default=64, help="side of pictures in pixels")
    parser.add_argument("--judge-seed", type=int, default=0, help="of the judge's first weights and batches")
    options = parser.parse_args()
    dataset = load_dataset(options.data, {"folder": options.folder, "size": options.size})
    started, lite0 = perf_counter(), load_lite0(cache_root() / "judges")
    judge = load_pairs(dataset, lite0, cache_root(), options.judge_seed)
    if judge is None:
        parser.error(WITHOUT)
    print(f"{dataset.train}\n{dataset.test}\njudge made in {perf_counter() - started:.0f} s")
    m = Measurement(None, dataset, None, lite0=lite0, pairs=judge)
    for name, measure in NAMES.items():
        for key, result in measure(m, name).items():
            print(f"{key:30} {result.value:.4f} +- {result.standard_error:.4f}  n = {result.n:,}")


if __name__ == "__main__":
    main()
