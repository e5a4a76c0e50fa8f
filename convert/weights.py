"""Where weights come from: .pth and .safetensors files, folders, torchvision's server, the Hugging Face Hub."""

import argparse
import json
import os
import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from convert.names import unwrap
from convert.torch_files import read_tensors
from jaxft.download import cache_folder, fetch
from jaxft.errors import UserError

MODEL_FILE = "model.safetensors"
TORCH_SUFFIXES = (".pth", ".pt", ".tar", ".ckpt", ".bin")
CHECKPOINT_KEYS = ("state_dict", "model", "model_state_dict")
"""Where a training script's checkpoint keeps its network."""

TORCH_SERVER = "https://download.pytorch.org/models"
HUB_SERVER = "https://huggingface.co"

# torchvision/models/resnet.py: IMAGENET1K_V1, the name's last part being the first eight digits of the sha256.
TORCHVISION_FILES = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
    "resnet152": "resnet152-394f9c45.pth",
    "resnext50_32x4d": "resnext50_32x4d-7cdf4587.pth",
    "resnext101_32x8d": "resnext101_32x8d-8ba56ff5.pth",
    "resnext101_64x4d": "resnext101_64x4d-173b62eb.pth",
    "wide_resnet50_2": "wide_resnet50_2-95faca4d.pth",
    "wide_resnet101_2": "wide_resnet101_2-32ee1156.pth",
}


class Weights(NamedTuple):
    """A state_dict in torchvision's layout, the class names where the file knows them, and where it came from."""

    state_dict: dict[str, np.ndarray]
    classes: tuple[str, ...] | None
    source: str


def load_weights(spec: str, arch: str, cache_dir: Path | None = None) -> Weights:
    """The weights that a SPEC names: `torchvision`, `hf:OWNER/REPO`, a .pth or .safetensors file, or a folder.

    Raises:
        UserError: nothing there, no network, or a file that is not safe or not weights.
    """
    cache = (cache_dir or cache_folder()) / "weights"
    if spec == "torchvision":
        return load_file(fetch_torchvision(arch, cache), spec)
    if spec.startswith("hf:"):
        return load_file(fetch_hub(spec.removeprefix("hf:"), cache), spec)
    path = Path(spec).expanduser()
    if path.is_dir():
        if not (path / MODEL_FILE).exists():
            raise UserError(f"--weights {spec}: the folder has no {MODEL_FILE}. Pass a run's folder, or a file.")
        path = path / MODEL_FILE
    if not path.exists():
        raise UserError(
            f"--weights {spec}: no such file. Pass torchvision, hf:OWNER/REPO, a .pth or .safetensors file, a run's "
            "folder, demo or none."
        )
    return load_file(path, spec)


def load_file(path: Path, source: str) -> Weights:
    """The weights in a .safetensors file or one of torch's, under the keys of the network that was wrapped.

    Raises:
        UserError: another kind of file, a damaged one, or two keys that are one without their prefix.
    """
    if path.suffix == ".safetensors":
        weights = load_safetensors(path, source)
    elif path.suffix in TORCH_SUFFIXES:
        weights = Weights(load_pth(path), None, source)
    else:
        raise UserError(f"--weights {source}: {path.name} is neither .safetensors nor {', '.join(TORCH_SUFFIXES)}.")
    return weights._replace(state_dict=unwrap_keys(weights.state_dict, path))


def unwrap_keys(state_dict: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """The state_dict of the network inside DataParallel and torch.compile."""
    unwrapped: dict[str, np.ndarray] = {}
    for key, array in state_dict.items():
        if unwrap(key) in unwrapped:
            raise UserError(f"{path}: holds {unwrap(key)} twice, once as {key}. Save one network alone.")
        unwrapped[unwrap(key)] = array
    return unwrapped


def load_safetensors(path: Path, source: str) -> Weights:
    """A .safetensors file, with the class names in its metadata or in classes.json beside it; needs no torch."""
    with _opened(path) as file:
        state_dict = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        classes = (file.metadata() or {}).get("classes")
    beside = path.with_name("classes.json")
    if classes is None and path.name == MODEL_FILE and beside.exists():
        classes = beside.read_text(encoding="utf-8")
    return Weights(state_dict, None if classes is None else tuple(json.loads(classes)), source)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a .safetensors file; its tensors are not read."""
    with _opened(path) as file:
        return file.metadata() or {}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole .safetensors file ({error}). Fetch or write it again.") from None


def load_pth(path: Path) -> dict[str, np.ndarray]:
    """A state_dict saved by torch, alone or in a training script's checkpoint; tensors are unpickled, never code.

    Raises:
        UserError: the file is damaged, wants code, or holds no state_dict; or torch would have to read it, and is not
            installed.
    """
    tensors = read_tensors(path)
    if tensors is not None:
        return state_dict_in(tensors, np.ndarray, path)
    try:
        import torch  # An extra, and seconds to import: only what read_tensors leaves needs it.
    except ModuleNotFoundError:
        raise UserError(
            f'{path}: this .pth file needs torch. Run pip install "jaxft[torch]", or pass a .safetensors file or '
            "--weights hf:timm/resnet18.tv_in1k (the same weights), which need none."
        ) from None
    try:
        # torchvision's training script keeps its arguments in the checkpoint: a Namespace runs no code.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # Of the pickle's protocol: what matters here raises.
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: refused, since it wants to run code when it is opened. Save the state_dict alone: "
            "torch.save(model.state_dict(), FILE)."
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise UserError(f"{path}: not a whole .pth file ({str(error).splitlines()[0]}). Fetch it again.") from None
    return {
        key: (value.float() if value.dtype == torch.bfloat16 else value).contiguous().numpy()
        for key, value in state_dict_in(loaded, torch.Tensor, path).items()
    }


def state_dict_in(loaded: Any, tensor: type, path: Path) -> dict[str, Any]:
    """What torch.save was given, or the network in a checkpoint of that kind: tensors by name.

    Raises:
        UserError: it is neither.
    """
    for _ in range(2):  # A checkpoint may hold another; one that held itself would have no end.
        if isinstance(loaded, Mapping):
            loaded = next((loaded[key] for key in CHECKPOINT_KEYS if key in loaded), loaded)
    if not isinstance(loaded, Mapping) or not all(isinstance(value, tensor) for value in loaded.values()):
        raise UserError(f"{path}: holds no state_dict. Save it with torch.save(model.state_dict(), FILE).")
    return dict(loaded)


def fetch_torchvision(arch: str, cache: Path) -> Path:
    """torchvision's official IMAGENET1K_V1 file; its sha256 begins as its name says.

    Raises:
        UserError: an unknown architecture, or as `fetch`.
    """
    if arch not in TORCHVISION_FILES:
        raise UserError(f"--arch {arch}: torchvision has no weights for it. It has {', '.join(TORCHVISION_FILES)}.")
    name = TORCHVISION_FILES[arch]
    server = os.environ.get("JAXFT_TORCH_SERVER", TORCH_SERVER)
    digest = name.removesuffix(".pth").rpartition("-")[2]
    hint = f"Or pass its path: --weights {name}."
    return fetch(f"{server}/{name}", cache / name, sha256=digest, hint=hint)


def fetch_hub(repo: str, cache: Path) -> Path:
    """model.safetensors of a repository on the Hugging Face Hub (or $HF_ENDPOINT).

    Raises:
        UserError: not OWNER/REPO, or as `fetch`.
    """
    owner, _, name = repo.partition("/")
    if not owner or not name or "/" in name:
        raise UserError(f"--weights hf:{repo}: not hf:OWNER/REPO. Write it like hf:timm/resnet18.tv_in1k.")
    server = os.environ.get("HF_ENDPOINT", HUB_SERVER)
    target = cache / "hub" / f"{owner}--{name}.safetensors"
    hint = f"Or pass its path: --weights {MODEL_FILE}."
    return fetch(f"{server}/{repo}/resolve/main/{MODEL_FILE}", target, hint=hint)


def save_weights(
    path: Path,
    state_dict: Mapping[str, np.ndarray],
    *,
    classes: Sequence[str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a .safetensors file in torchvision's layout, whole or not at all; needs no torch."""
    described = dict(metadata or {})
    if classes is not None:
        described["classes"] = json.dumps(list(classes), ensure_ascii=False)
    scratch = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        scratch.write_bytes(save(dict(state_dict), described))
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
