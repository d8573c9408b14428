"""The ratio learns when priors have settled: what the codes of items are decoded to, against what draws are."""

from collections.abc import Iterator

import torch
from torch.optim import AdamW

from multiebm.core.batch import Batch
from multiebm.core.names import Views
from multiebm.core.progress import track
from multiebm.models.model import MultimodalModel
from multiebm.objectives.ratio import ratio_loss
from multiebm.training.rates import half_cosine

STEPS = 1200
RATE, WEIGHT_DECAY = 3e-3, 1e-2  # of AdamW
RISE = 0.1  # share of the steps in which the rate rises; then it falls along half a cosine
LARGEST = 64  # items of a step, and as many draws
REUSE = 4  # steps that a batch is decoded for
KEPT = 2**26  # numbers of decoded views that are kept, for later steps to choose from


def learn_ratio(model: MultimodalModel, batches: Iterator[Batch], rng: torch.Generator, steps: int) -> None:
    """Let the ratio of `model`, in evaluation mode, learn in so many `steps`; nothing where it has none.

    Codes are drawn as in use, q(z, W | x_S), draws of the prior at the temperature of samples.
    """
    ratio = model.ratio
    if ratio is None or not steps:
        return
    optimiser, kept = AdamW(ratio.parameters(), RATE, weight_decay=WEIGHT_DECAY, fused=True), list[Views]()
    most = max(1, KEPT // (2 * LARGEST * sum(m.size for m in model.modalities.values())))
    ratio.pool_temperature.fill_(0.0)
    ratio.train()
    for step in track(range(steps), "samples are compared with codes"):
        if not step % REUSE:
            kept = [*kept[-most + 1 :], decoded(model, next(batches), rng)]
        views = kept[int(torch.randint(len(kept), (), generator=rng, device=rng.device))]
        done = (step + 0.5) / steps
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(done / RISE, half_cosine(1.0, 0.0, (done - RISE) / (1 - RISE)))
        of_codes, of_draws = ratio(views).chunk(2)
        optimiser.zero_grad(set_to_none=True)
        ratio_loss(of_codes, of_draws).backward()
        optimiser.step()
        ratio.steps += 1
    ratio.eval()


@torch.no_grad()
def decoded(model: MultimodalModel, batch: Batch, rng: torch.Generator) -> Views:
    """Return views [2 N, ...]: what the codes of N items of the batch are decoded to, then what N draws are."""
    n = min(LARGEST, len(batch.present))
    some = batch.select(torch.arange(n, device=batch.present.device))
    codes, draws = model.infer_latents(some, rng), model.sample_latents(n, rng)
    return model.likeliest(model.decode({key: torch.cat([codes[key], draws[key]]) for key in codes}))
