"""The suite `own` in MultiVae: the same rows, at equal time, where it can take the data at all.

    python scripts/peer.py [--sets NAME ...] [--seeds 0 1 2] [--out results]

MultiVae (https://pypi.org/project/multivae/) takes numbers without gaps, so the sets are those of complete numbers,
which are standardised for it. Its MoPoE and MVTCAE have its own default networks, 16 latents, a rate of 1e-3, and noise
of 0.3 standard deviations. They train as long as the cell of `results/own/own.json` took. Completions are the mean of
100 draws there too. Seconds are those of one thread.
"""

import json
import tempfile
import time
from typing import Any

import numpy as np
import torch
from cells import RESULTS, Kept, parser_of
from own import DRAWS, dataset_of
from own_sets import SETS

COMPLETE = ["cancer", "diabetes", "linnerud", "digit halves", "crime", "sensors", "factors", "ring"]
METHODS = ("MoPoE", "MVTCAE")
TRIED = 20  # epochs by which the time of one is told


def trained(method: str, states: dict[str, torch.Tensor], seconds: float, seed: int) -> Any:
    """Return a model of MultiVae that trained for about so many seconds."""
    import multivae.models
    from multivae.data.datasets import MultimodalBaseDataset
    from multivae.trainers import BaseTrainer, BaseTrainerConfig

    def run(epochs: int) -> tuple[Any, float]:
        torch.manual_seed(seed)
        config = getattr(multivae.models, f"{method}Config")(
            n_modalities=len(states),
            latent_dim=16,
            input_dims={name: tuple(of.shape[1:]) for name, of in states.items()},
            decoders_dist=dict.fromkeys(states, "normal"),
            decoder_dist_params={name: {"scale": 0.3} for name in states},
        )
        model = getattr(multivae.models, method)(config)
        with tempfile.TemporaryDirectory() as folder:
            how = BaseTrainerConfig(output_dir=folder, num_epochs=epochs, learning_rate=1e-3, no_cuda=True, seed=seed)
            trainer = BaseTrainer(model, MultimodalBaseDataset(states), training_config=how)
            began = time.perf_counter()
            trainer.train()
        return model.eval(), time.perf_counter() - began

    _, took = run(TRIED)
    return run(max(TRIED, int(TRIED * seconds / took)))


def error(model: Any, states: dict[str, torch.Tensor], part: str) -> float:
    """Return the root mean square error of a part, filled in from all others by the mean of draws."""
    from multivae.data.datasets import MultimodalBaseDataset

    others = [name for name in states if name != part]
    with torch.no_grad():
        drawn = model.predict(MultimodalBaseDataset(states), cond_mod=others, gen_mod=part, N=DRAWS)[part]
    assert drawn.shape == (DRAWS, *states[part].shape)
    return float((drawn.mean(0) - states[part]).square().mean().sqrt())


def main() -> None:
    """Measure what is not there yet; write the cells and the page."""
    given = parser_of(__doc__, COMPLETE, SETS).parse_args()
    ours = {(of["set"], of["seed"]): of for of in json.loads((RESULTS / "own" / "own.json").read_text())}
    cells = Kept(given.out / "peer" / "cells.json")
    for name in given.sets:
        for seed in given.seeds:
            data = dataset_of(name, seed, validation=False)
            splits = [data.batch(split, torch.arange(len(getattr(data, split)))).views for split in ("train", "test")]
            for method in METHODS:
                if cells.has(set=name, seed=seed, method=method):
                    continue
                model, took = trained(method, splits[0], ours[name, seed]["seconds"], seed)
                errors = {part: error(model, splits[1], part) for part in splits[1]}
                cells.add({"set": name, "seed": seed, "method": method, "rmse": errors, "seconds": round(took, 1)})
    labels = ["own", *(f"MultiVae {method}" for method in METHODS), "regression", "neighbours"]
    page = ["# The suite of own data in MultiVae", "", *(__doc__ or "").strip().split("\n\n")[2].splitlines(), ""]
    page += [
        "`python scripts/peer.py`",
        "",
        f"| set | {' | '.join(labels)} | seconds |",
        "|---" * (len(labels) + 2) + "|",
    ]
    for name in cells.sets():
        mine = [ours[name, seed] for seed in given.seeds]
        row = [np.mean([part["model"] for of in mine for part in of["parts"].values()])]
        for method in METHODS:
            theirs = [of for of in cells if (of["set"], of["method"]) == (name, method)]
            row.append(np.mean([value for of in theirs for value in of["rmse"].values()]))
        row += [np.mean([p[key] for of in mine for p in of["parts"].values()]) for key in ("regression", "neighbours")]
        page.append(f"| {name} | {' | '.join(f'{value:.3f}' for value in row)} | {mine[0]['seconds']:.0f} |")
    page += ["", f"Seeds {sorted({of['seed'] for of in cells})}."]
    (given.out / "peer.md").write_text("\n".join(page) + "\n")


if __name__ == "__main__":
    main()
