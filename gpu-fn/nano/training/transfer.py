"""Moves trained weights between machines in files of at most 15 MiB: averaged weights, in float16 if large, without optimizer states.

    python -m training.transfer split OUT base turbo      on the training machine
    python -m training.transfer join OUT                  on the destination machine, into its state folder
"""

import argparse
import shutil
from pathlib import Path

import torch

from .settings import STATE

LARGEST = 15 * 2**20  # bytes of one part


def split(out: Path, names: list[str]) -> None:
    """Writes NAME.pt.0, NAME.pt.1 and so on. Missing states are skipped."""
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        if not (STATE / f"{name}.pt").exists():
            print(f"{name}: no state")
            continue
        saved = torch.load(STATE / f"{name}.pt", map_location="cpu", weights_only=True)
        weights = saved.pop("average")
        if sum(value.nbytes for value in weights.values()) > LARGEST:  # the judge stays in float32
            weights = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
        whole = out / f"{name}.pt"
        torch.save({**{key: value for key, value in saved.items() if key != "optimizers"}, "network": weights, "average": weights}, whole)
        with whole.open("rb") as file:
            for number, part in enumerate(iter(lambda: file.read(LARGEST), b"")):
                (out / f"{name}.pt.{number}").write_bytes(part)
        whole.unlink()


def join(source: Path) -> None:
    """Reassembles the states from their parts in a folder."""
    STATE.mkdir(parents=True, exist_ok=True)
    for first in sorted(source.glob("*.pt.0")):
        name = first.name.removesuffix(".0")
        parts = sorted(source.glob(f"{name}.*"), key=lambda part: int(part.suffix[1:]))
        with (STATE / name).open("wb") as whole:
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, whole)
        print(f"{name}: {len(parts)} parts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("split", "join"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=["base"])
    options = parser.parse_args()
    if options.action == "split":
        split(options.folder, options.names)
    else:
        join(options.folder)


if __name__ == "__main__":
    main()
