from .core.errors import CheckpointError as CheckpointError
from .core.errors import ConfigError as ConfigError
from .core.errors import DataError as DataError
from .core.errors import DivergenceError as DivergenceError
from .core.errors import ModalityError as ModalityError
from .core.errors import MultiebmError as MultiebmError
from .core.errors import OutputError as OutputError
from .core.random import make_generator as make_generator
from .data import Rows as Rows
from .data import from_arrays as from_arrays
from .data import load_dataset as load_dataset
from .data import read_data as read_data
from .experiments.api import build as build
from .experiments.api import evaluate as evaluate
from .experiments.api import train as train
from .experiments.imputer import Imputer as Imputer
from .experiments.load import load_experiment as load_experiment
from .experiments.saved import from_pretrained as from_pretrained
from .experiments.saved import save_pretrained as save_pretrained
from .experiments.schema import Experiment as Experiment
from .report.page import write_comparison as write_comparison
from .report.page import write_report as write_report
from .training.hooks import StopTraining as StopTraining

__version__: str
