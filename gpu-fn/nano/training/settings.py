"""Where stages keep their state and the world's files until `training.export` writes them into the model's folder."""

import os
from pathlib import Path

NANO = Path(__file__).parent.parent
STATE = Path(os.environ.get("NANO_STATE", Path(__file__).parent / "state"))
VOCABULARY = 3000  # entries of the tokenizer of the two CLIPs
T5_VOCABULARY = 2560
