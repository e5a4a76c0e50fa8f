"""torch's files read without torch, against torch."""

import pickle
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from convert.torch_files import read_tensors, strided
from convert.weights import load_pth
from jaxft.errors import UserError

DTYPES = (torch.float64, torch.float32, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def tensors():
    """One of every dtype, and of every way to lie in memory."""
    torch.manual_seed(0)
    base = torch.randn(4, 6, 5, 3)
    return OrderedDict(
        {f"{dtype}": (100 * base).to(dtype) for dtype in DTYPES},
        bool=base > 0,
        channels_last=base.to(memory_format=torch.channels_last),
        transposed=base[0, 0].T,
        part=base[1:3, ::2, 1:],
        expanded=torch.randn(1, 3).expand(4, 3),
        scalar=torch.tensor(7),
        empty=torch.zeros(0, 3),
        parameter=nn.Parameter(base[0]),
    )


def test_it_reads_what_torch_reads(tmp_path):
    saved = tensors()
    torch.save(saved, tmp_path / "file.pth")
    found = read_tensors(tmp_path / "file.pth")
    assert list(found) == list(saved)
    for name, tensor in saved.items():
        expected = tensor.detach().numpy()
        np.testing.assert_array_equal(found[name], expected)
        assert found[name].dtype == expected.dtype
        assert found[name].flags.c_contiguous
        assert found[name].flags.writeable


def test_a_network_and_a_checkpoint_need_no_torch(tmp_path, monkeypatch):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    checkpoint = {"epoch": 3, "best": 0.5, "name": "mine", "lrs": [0.1], "model": network.state_dict()}
    torch.save(network.state_dict(), tmp_path / "alone.pth")
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in ("alone.pth", "checkpoint.pth"):
        found = load_pth(tmp_path / name)
        assert list(found) == list(state)
        for key, array in state.items():
            np.testing.assert_array_equal(found[key], array)


def test_torch_reads_the_rest(tmp_path, monkeypatch):
    saved = {"weight": torch.randn(3).bfloat16()}
    negated = torch.randn(3, dtype=torch.complex64).conj().imag
    assert negated.is_neg()
    torch.save(saved, tmp_path / "bfloat16.pth")
    torch.save({"weight": torch.ones(3)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"weight": negated}, tmp_path / "negated.pth")
    files = {"bfloat16.pth": saved["weight"].float(), "old.pth": torch.ones(3), "negated.pth": negated.resolve_neg()}
    for name, expected in files.items():
        assert read_tensors(tmp_path / name) is None
        np.testing.assert_array_equal(load_pth(tmp_path / name)["weight"], expected)
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "torch", None)
            with pytest.raises(UserError, match=f"{name}: this .pth file needs torch"):
                load_pth(tmp_path / name)


def test_nothing_but_tensors_is_made(tmp_path):
    class Code:
        def __reduce__(self):
            return (print, ("code",))

    torch.save({"weight": Code()}, tmp_path / "code.pth", pickle_module=pickle)
    assert read_tensors(tmp_path / "code.pth") is None


def rewritten(source, target, change, **how):
    """A copy of a .pth file, its data.pkl and storages changed, as a valid zip."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **how) as new:
        for name in old.namelist():
            new.writestr(name, change(name.split("/", 1)[1], old.read(name)))
    return target


def test_a_changed_byte_is_told(tmp_path):
    torch.save({"weight": torch.arange(99.0)}, tmp_path / "whole.pth")
    content = bytearray((tmp_path / "whole.pth").read_bytes())
    content[content.index(torch.arange(99.0).numpy().tobytes()) + 40] ^= 1
    (tmp_path / "changed.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"changed.pth: not a whole .pth file \(Bad CRC-32 for .*data/0'\). Fetch it"):
        load_pth(tmp_path / "changed.pth")


def test_a_file_without_checksums_is_read_by_torch(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"weight": torch.arange(9.0)}, tmp_path / "file.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_tensors(tmp_path / "file.pth") is None
    np.testing.assert_array_equal(load_pth(tmp_path / "file.pth")["weight"], np.arange(9))


def test_what_does_not_fit_is_left_to_torch(tmp_path):
    torch.save({"weight": torch.arange(9.0)}, tmp_path / "whole.pth")
    same = rewritten(tmp_path / "whole.pth", tmp_path / "same.pth", lambda _, data: data)
    assert list(read_tensors(same)) == ["weight"]
    short = rewritten(same, tmp_path / "short.pth", lambda name, data: data[:-4] if name == "data/0" else data)
    long = rewritten(same, tmp_path / "long.pth", lambda name, data: data * 2 if name == "data/0" else data)
    big = rewritten(same, tmp_path / "big.pth", lambda name, data: b"big" if name == "byteorder" else data)
    small = rewritten(same, tmp_path / "small.pth", lambda _, data: data, compression=zipfile.ZIP_DEFLATED)
    other = rewritten(same, tmp_path / "other.pth", lambda _, data: data.replace(b"FloatStorage", b"_utils\nOther"))
    (tmp_path / "cut.pth").write_bytes(same.read_bytes()[:-20])
    for path in (short, long, big, small, other, tmp_path / "cut.pth", tmp_path / "none.pth"):
        assert read_tensors(path) is None


def test_shared_storage_is_read_once(tmp_path, monkeypatch):
    base = torch.arange(12.0)
    torch.save({"a": base[:6], "b": base[6:], "c": base.view(3, 4)}, tmp_path / "file.pth")
    read = []
    original = zipfile.ZipFile.read
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda self, info: read.append(info.filename) or original(self, info))
    assert read_tensors(tmp_path / "file.pth")["b"].tolist() == [6, 7, 8, 9, 10, 11]
    assert read.count("file/data/0") == 1


def test_control_c_stops_it(tmp_path, monkeypatch):
    def pressed(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(zipfile, "ZipFile", pressed)
    with pytest.raises(KeyboardInterrupt):
        read_tensors(tmp_path / "file.pth")


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        *((0, (7,), (1,)), (3, (4,), (1,)), (0, (2, 2), (5, 1))),
        *((-1, (1,), (1,)), (0, (2,), (-1,)), (0, (-1,), (1,))),
        (0, (2, 2, 2, 2), (np.int64(2**62),) * 4),  # 4 x 2^62 is 0 in 64 bits.
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_a_tensor_stays_within_its_storage(offset, size, stride):
    with pytest.raises(ValueError, match="of 6 elements"):
        strided(np.arange(6), offset, size, stride)
