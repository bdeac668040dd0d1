#!/usr/bin/env python3
"""The layers: kernels < parallel < runtime < actors < launcher.

A folder includes only itself and folders to its left; tests, demo and training are nobody's
dependency, and training is a program of its own that includes any layer. Run by ctest; the argument
is the source directory.
"""
import pathlib
import re
import sys

LAYERS = ["kernels", "parallel", "runtime", "actors", "launcher"]
OURS = set(LAYERS) | {"tests", "training", "demo", "configs"}
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.M)


def main() -> int:
    root = pathlib.Path(sys.argv[1])
    problems = []
    files = 0
    for rank, layer in enumerate(LAYERS + ["training"]):
        for path in sorted((root / layer).rglob("*")):
            if path.suffix not in {".h", ".cc", ".cu", ".cuh", ".inc"}:
                continue
            files += 1
            for target in INCLUDE.findall(path.read_text(encoding="utf-8")):
                folder = target.split("/")[0]
                where = f"{path.relative_to(root)}: #include \"{target}\""
                if target.startswith("."):
                    problems.append(f"{where}: include by path from the top folder")
                elif folder in LAYERS and LAYERS.index(folder) > rank:
                    problems.append(f"{where}: {layer} may not include {folder}")
                elif folder in OURS - set(LAYERS) - {layer}:
                    problems.append(f"{where}: {layer} may not include {folder}")
                elif folder in LAYERS + [layer] and not (root / target).is_file():
                    problems.append(f"{where}: no such file")
    if files < 20:
        problems.append(f"only {files} files were looked at: wrong source directory?")
    print("\n".join(problems) or f"{files} files keep the layers")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
