#!/usr/bin/env python3
"""Makes tests/golden/float8.json: what PyTorch takes float8_e4m3fn for.

    python make_float8.py [FILE]          (needs torch)

`values` holds the float of each of the 256 bit patterns, null for NaN. `rounded` holds pairs of a
float32 (its bits) and what PyTorch rounds it to: every border between two neighbours that are not
negative, and the floats beside it. Beyond 448 PyTorch makes NaN and we do not, so nothing there.
"""

import json
import math
import pathlib
import sys

import torch


def bits_of(floats):
    return floats.view(torch.int32).tolist()


def main():
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    values = codes.view(torch.float8_e4m3fn).float()
    finite = values[:127]  # 0 to 448
    borders = (finite[:-1] + finite[1:]) / 2
    up, down = torch.tensor(math.inf), torch.tensor(-math.inf)
    samples = torch.cat([borders, torch.nextafter(borders, up), torch.nextafter(borders, down),
                         torch.nextafter(finite, up), torch.nextafter(finite[1:], down),
                         torch.tensor([0.0, 1e-40, 1e-10])])
    samples = samples[(samples >= 0) & (samples <= 448)]
    rounded = samples.to(torch.float8_e4m3fn).view(torch.uint8).tolist()
    golden = {
        "values": [None if math.isnan(v) else v for v in values.tolist()],
        "rounded": [list(pair) for pair in zip(bits_of(samples), rounded)],
    }
    here = pathlib.Path(__file__).resolve().parent
    target = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here / "float8.json"
    text = json.dumps(golden, separators=(",", ":"))
    target.write_text(text.replace('],"', '],\n"').replace("],[", "],\n[") + "\n")


if __name__ == "__main__":
    main()
