#!/usr/bin/env python3
"""Writes checkpoints with PyTorch's own `save` into tests/golden/torch_files.

Needs torch >= 1.6 and numpy. Every version writes the same things under its own name, so that a run
with each of several versions shows what their files have in common:

    make_torch_files.py kinds medusa eagle3 wrapped legacy deflated   cases to write (default: all)

    make_torch_files.py --corpus    the inputs of tests/fuzz/torch_pickle_fuzz.cc

Beside FILE.pt lies FILE.json: for every tensor its dtype, shape and bytes (hexadecimal, little
endian, C order).
"""
import collections
import json
import os
import pathlib
import pickle
import sys
import zipfile

import numpy as np
import torch

OUT = pathlib.Path(__file__).resolve().parent / "torch_files"
CORPUS = OUT.parent.parent / "fuzz" / "corpus" / "torch_pickle"
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16",
          torch.int64: "int64", torch.bool: "bool"}


def content(tensor):
    """What the tensor holds, told without torch's own serialisation."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        data = (tensor.float().numpy().view(np.uint32) >> 16).astype(np.uint16)
    else:
        data = tensor.numpy()
    return {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape),
            "bytes": data.astype(data.dtype.newbyteorder("<")).tobytes().hex()}


def kinds():
    """Every dtype, and every way in which a tensor can lie in its storage."""
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    extremes = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-40, 3.4e38])
    tied = torch.randn(3, 2)
    return {
        "float32": extremes,
        "float16": extremes.half(),
        "bfloat16": extremes.bfloat16(),
        "int64": torch.tensor([-2**63, 2**63 - 1, 0, -1]),
        "bool": torch.tensor([[True, False, True]]),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "frozen": torch.nn.Parameter(torch.randn(1, 3), requires_grad=False),
        "tied": tied,
        "tied.too": tied,
        "tied.transposed": tied.t(),
        "cube": base,
        "cube.slice": base[1:, :, 1:3],
        "cube.permuted": base.permute(2, 0, 1),
        "cube.row": base[1, 2],
        "cube.one": base[:, 1:2, 3:],
        "bool.transposed": torch.tensor([[True, False, True], [False, False, True]]).t(),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "empty.slice": base[2:],
        "na\u00efve \U0001f985": torch.ones(1),
    }


class MedusaHead(torch.nn.Sequential):
    """Names as published: {head}.0.linear.{weight,bias}, {head}.1.weight."""

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 4)

    def __init__(self):
        super().__init__(self.Block(), torch.nn.Linear(4, 6, bias=False))


def medusa():
    """A state dict: an OrderedDict with attributes."""
    return torch.nn.ModuleList([MedusaHead(), MedusaHead()]).half().state_dict()


def eagle3():
    return collections.OrderedDict([
        ("d2t", torch.tensor([0, 3, 3, 700000000000])),
        ("t2d", torch.tensor([True, False, False, True, False])),
        ("midlayer.hidden_norm.weight", torch.randn(4).bfloat16()),
        ("fc.weight", torch.randn(2, 6).bfloat16()),
    ])


def wrapped():
    return {"epoch": 3, "loss": 0.25, "note": "best", "best": None,
            "state_dict": {"embed.weight": torch.randn(3, 4).half()}}


# case -> how it is saved
CASES = {
    "kinds": (kinds, {"pickle_protocol": 2}),
    "medusa": (medusa, {"pickle_protocol": 4}),
    "eagle3": (eagle3, {"pickle_protocol": 3}),
    "wrapped": (wrapped, {"pickle_protocol": 5}),
    "legacy": (eagle3, {"_use_new_zipfile_serialization": False}),
    "deflated": (eagle3, {}),
}


def pack_again(path):
    """The same archive, compressed, as people make it who repair one with a zip program."""
    with zipfile.ZipFile(path) as stored:
        entries = [(entry.filename, stored.read(entry)) for entry in stored.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in entries:
            packed.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)


class Hostile:
    """Unpickled by Python, it runs a command."""

    def __reduce__(self):
        return os.system, ("true",)


def write_corpus():
    """Files that load, their pickles, and one that must not."""
    CORPUS.mkdir(parents=True, exist_ok=True)
    for path in sorted(OUT.glob("*.pt")):
        if path.name.startswith("legacy"):
            continue
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
            (CORPUS / (path.stem + ".pkl")).write_bytes(archive.read(name))
    for name in ("deflated-2.15.pt", "wrapped-1.6.pt"):
        (CORPUS / name).write_bytes((OUT / name).read_bytes())
    for protocol in (2, 4):
        data = pickle.dumps({"weight": Hostile()}, protocol)
        (CORPUS / f"system-{protocol}.pkl").write_bytes(data)
    torch.save({"weight": Hostile()}, str(CORPUS / "system.pt"))


def main():
    if sys.argv[1:] == ["--corpus"]:
        write_corpus()
        return
    OUT.mkdir(exist_ok=True)
    version = ".".join(torch.__version__.split("+")[0].split(".")[:2])
    for case in sys.argv[1:] or CASES:
        make, options = CASES[case]
        torch.manual_seed(1)
        saved = make()
        path = OUT / f"{case}-{version}.pt"
        torch.save(saved, str(path), **options)
        if case == "deflated":
            pack_again(path)
        tensors = saved.get("state_dict", saved)
        lines = [f" {json.dumps(name)}: {json.dumps(content(tensor))}"
                 for name, tensor in tensors.items()]
        path.with_suffix(".pt.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()
