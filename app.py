"""The studio in a browser: `python app.py [--model FOLDER_OR_HUB_ID]`, or with the model named in LONGMEM_MODEL."""

import argparse
import os
from pathlib import Path

from app import ui
from longmem.model import LongMemForCausalLM

if __name__ == "__main__":
    bundled = Path(__file__).parent / "assets" / "model"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=os.environ.get("LONGMEM_MODEL", bundled), help="default: the bundled one")
    model = LongMemForCausalLM.from_pretrained(parser.parse_args().model)
    ui.build(model).launch(**ui.launch_options())
