"""The state folder of the stages, from which `training.export` writes the model, and the sizes of the vocabularies."""

import os
from pathlib import Path

NANO = Path(__file__).parent.parent
STATE = Path(os.environ.get("NANO_STATE", Path(__file__).parent / "state"))
VOCABULARY = 3000  # entries of the tokenizer of the two CLIPs
T5_VOCABULARY = 2560
