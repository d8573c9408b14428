"""What a model of `shapes` says and draws, attribute by attribute: scenes and captions are read off exactly.

    python scripts/shapes_coherence.py RUN [RUN ...] [--items 1000] [--split test]

A line of a Markdown table a run and way. Class: colour and shape agree. Agreement: every attribute that the caption
names is in the picture. Grammar: captions that are one of the eight wordings. Distance: root mean square of a picture
to the nearest drawing, in states; the noise of real ones is 0.06. AUROC: of `score`, captions of another class.
"""

import argparse
from typing import Any

import torch

import multiebm
from multiebm.core.names import Views
from multiebm.data.dataset import MultimodalDataset
from multiebm.data.shapes import N_CLASSES, agreement, caption_scenes, shapes_scenes
from multiebm.objectives.belonging import higher

WAYS: dict[str, dict[str, Any]] = {"Gen": {"data_steps": 0}, "EBM": {"data_steps": None}}


def classes(scenes: torch.Tensor) -> torch.Tensor:
    """Return the class of scenes [N, 5], colour and shape: int64 [N], -1 of a caption that is no wording."""
    return torch.where(scenes[:, 0] < 0, -1, scenes[:, 0] * 4 + scenes[:, 1])


def read(pictures: torch.Tensor, captions: list[str]) -> dict[str, float]:
    """Return the shares of pairs [N] of a picture, raw, and a caption that agree, and what each is like."""
    states = pictures / 127.5 - 1 if pictures.dtype == torch.uint8 else pictures * 2 - 1
    shown, far = shapes_scenes(states)
    said, wording = caption_scenes(captions)
    share = torch.bincount(classes(shown), minlength=N_CLASSES) / len(shown)
    return {
        "class": float((classes(shown) == classes(said)).float().mean()),
        "agreement": float(agreement(states, captions).float().mean()),
        "grammar": float(wording.float().mean()),
        "distance": float(far.mean()),
        "entropy": float(torch.special.entr(share).sum() / torch.tensor(float(N_CLASSES)).log()),
    }


def auroc(model: Any, given: Views, captions: list[str], labels: torch.Tensor) -> float:
    """Return how often `score` ranks a true pair above one whose caption is of an item of another class."""
    other = torch.arange(len(labels)).roll(1)
    for shift in range(2, len(labels)):  # the first item behind that has another class
        same = labels[other] == labels
        other[same] = torch.arange(len(labels)).roll(shift)[same]
    true = model.score({"picture": given["picture"], "caption": captions})
    wrong = model.score({"picture": given["picture"], "caption": [captions[i] for i in other.tolist()]})
    return float(higher(true, wrong).mean())


def lines(run: str, data: MultimodalDataset, items: int, split: str) -> list[str]:
    """Return the rows of a run: joint samples and both directions, by decoders alone and by all chains."""
    model = multiebm.from_pretrained(run)
    of = getattr(data, split)
    pictures = of.views["picture"][:items]
    captions = [str(text) for text in data.modalities["caption"].show(of.views["caption"][:items])]
    score = auroc(model, {"picture": pictures}, captions, of.labels[:items])
    found = []
    for way, how in WAYS.items():
        drawn = model.sample(items, seed=1, **how)
        said = model.impute({"picture": pictures}, want=["caption"], **how)["caption"]
        shown = model.impute({"caption": captions}, want=["picture"], **how)["picture"]
        both = {
            "joint": read(torch.as_tensor(drawn["picture"]), [str(text) for text in drawn["caption"]]),
            "caption of a picture": read(pictures, [str(text) for text in said]),
            "picture of a caption": read(torch.as_tensor(shown), captions),
        }
        for what, values in both.items():
            told = " | ".join(f"{value:.3f}" for value in values.values())
            found.append(f"| {run} | {way} | {what} | {told} | {score:.3f} |")
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--split", choices=["train", "test"], default="test")
    chosen = parser.parse_args()
    data = multiebm.load_dataset("shapes", {"size": 32})
    print("| run | way | what | class | agreement | grammar | distance | entropy | AUROC of the score |")
    print("|---|---|---|---|---|---|---|---|---|")
    for run in chosen.runs:
        print("\n".join(lines(run, data, chosen.items, chosen.split)), flush=True)


if __name__ == "__main__":
    main()
