"""Fine-tune torchvision's ImageNet ResNets on your own photographs, in pure-functional JAX.

The public names are those of `__all__`; docs/library.md says what they do. Whatever else a module has may change.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from configs import preset as preset
    from convert.pretrained import load_torchvision as load_torchvision
    from jaxft.classifier import Classifier as Classifier
    from jaxft.classifier import Prediction as Prediction
    from jaxft.classifier import Scores as Scores
    from jaxft.config import Config as Config
    from jaxft.config import ImageConfig as ImageConfig
    from jaxft.config import ModelConfig as ModelConfig
    from jaxft.config import OptimConfig as OptimConfig
    from jaxft.config import RegularConfig as RegularConfig
    from jaxft.config import ScheduleConfig as ScheduleConfig
    from jaxft.config import StagesConfig as StagesConfig
    from jaxft.data.augment import Augmented as Augmented
    from jaxft.data.augment import Batch as Batch
    from jaxft.data.augment import EvalBatch as EvalBatch
    from jaxft.data.augment import make_augment as make_augment
    from jaxft.data.canvas import Decoded as Decoded
    from jaxft.data.canvas import decode_set as decode_set
    from jaxft.data.folders import open_folder as open_folder
    from jaxft.data.images import Canvas as Canvas
    from jaxft.data.images import EvalCrop as EvalCrop
    from jaxft.data.sources import ArraySource as ArraySource
    from jaxft.data.sources import FileSource as FileSource
    from jaxft.data.sources import Source as Source
    from jaxft.data.sources import Splits as Splits
    from jaxft.errors import UserError as UserError
    from jaxft.model_file import Description as Description
    from jaxft.model_file import load as load
    from jaxft.model_file import save_model as save_model
    from jaxft.optim import make_optimizer as make_optimizer
    from jaxft.optim import rate_labels as rate_labels
    from jaxft.options import Options as Options
    from jaxft.parallel import local_devices as local_devices
    from jaxft.parallel import over_devices as over_devices
    from jaxft.parallel import put_batch as put_batch
    from jaxft.parallel import put_replicated as put_replicated
    from jaxft.range_test.curve import Curve as Curve
    from jaxft.range_test.finder import find_lr as find_lr
    from jaxft.records import Record as Record
    from jaxft.resnet import ResNet as ResNet
    from jaxft.resnet import make_resnet as make_resnet
    from jaxft.resnet import resnet18 as resnet18
    from jaxft.resnet import resnet34 as resnet34
    from jaxft.resnet import resnet50 as resnet50
    from jaxft.resnet import resnet101 as resnet101
    from jaxft.resnet import resnet152 as resnet152
    from jaxft.schedule import make_schedule as make_schedule
    from jaxft.session import DivergedError as DivergedError
    from jaxft.session import Result as Result
    from jaxft.step import EvalSums as EvalSums
    from jaxft.step import Metrics as Metrics
    from jaxft.step import TrainState as TrainState
    from jaxft.step import init_state as init_state
    from jaxft.step import make_eval_step as make_eval_step
    from jaxft.step import make_train_step as make_train_step
    from jaxft.step import variables_of as variables_of
    from jaxft.sweeping.choice import Average as Average
    from jaxft.sweeping.choice import Ranked as Ranked
    from jaxft.sweeping.fit_many import Averages as Averages
    from jaxft.sweeping.fit_many import Hooks as Hooks
    from jaxft.sweeping.fit_many import Sweep as Sweep
    from jaxft.sweeping.fit_many import fit_many as fit_many
    from jaxft.sweeping.folder import Epoch as Epoch
    from jaxft.sweeping.folder import Member as Member
    from jaxft.training import fit as fit

__version__ = "0.1.0"

# Imported when they are asked for, so that `import jaxft` stays cheap.
_PLACES = {
    "configs": ("preset",),
    "convert.pretrained": ("load_torchvision",),
    "jaxft.classifier": ("Classifier", "Prediction", "Scores"),
    "jaxft.config": (
        *("Config", "ImageConfig", "ModelConfig", "OptimConfig"),
        *("RegularConfig", "ScheduleConfig", "StagesConfig"),
    ),
    "jaxft.data.augment": ("Augmented", "Batch", "EvalBatch", "make_augment"),
    "jaxft.data.canvas": ("Decoded", "decode_set"),
    "jaxft.data.folders": ("open_folder",),
    "jaxft.data.images": ("Canvas", "EvalCrop"),
    "jaxft.data.sources": ("ArraySource", "FileSource", "Source", "Splits"),
    "jaxft.errors": ("UserError",),
    "jaxft.model_file": ("Description", "load", "save_model"),
    "jaxft.optim": ("make_optimizer", "rate_labels"),
    "jaxft.options": ("Options",),
    "jaxft.parallel": ("local_devices", "over_devices", "put_batch", "put_replicated"),
    "jaxft.range_test.curve": ("Curve",),
    "jaxft.range_test.finder": ("find_lr",),
    "jaxft.records": ("Record",),
    "jaxft.resnet": ("ResNet", "make_resnet", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    "jaxft.schedule": ("make_schedule",),
    "jaxft.session": ("DivergedError", "Result"),
    "jaxft.step": (
        *("EvalSums", "Metrics", "TrainState"),
        *("init_state", "make_eval_step", "make_train_step", "variables_of"),
    ),
    "jaxft.sweeping.choice": ("Average", "Ranked"),
    "jaxft.sweeping.fit_many": ("Averages", "Hooks", "Sweep", "fit_many"),
    "jaxft.sweeping.folder": ("Epoch", "Member"),
    "jaxft.training": ("fit",),
}

__all__ = ["__version__", *(name for names in _PLACES.values() for name in names)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    for module, names in _PLACES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'jaxft' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
