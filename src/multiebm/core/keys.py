"""Keys that several floors use, said once: the files of a run folder, and of the numbers of a state."""

CONFIG = "config.yaml"  # of a run folder: its resolved configuration
RUN = "run.json"  # what happened in it, and where
METRICS = "metrics.jsonl"  # a line per few steps
CHECKPOINTS = "checkpoints"
MODEL = "model"  # as `save_pretrained` writes it
EVALUATION = "evaluation.json"
REPORT = "report.html"
BOARD = "tensorboard"
DATA = "data.npz"  # what it was trained on, where that was handed over in Python

ELAPSED = "elapsed_seconds"  # of a state's numbers: seconds spent in steps so far, hooks not counted
