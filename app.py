"""The studio in a browser: `python app.py [--model FOLDER_OR_HUB_ID] [--mcp]`; LONGMEM_MODEL names a model too."""

import argparse
import os
from importlib.util import find_spec
from pathlib import Path

from app import ui
from longmem.model import LongMemForCausalLM

if __name__ == "__main__":
    bundled = Path(__file__).parent / "assets" / "model"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=os.environ.get("LONGMEM_MODEL", bundled), help="default: the bundled one")
    parser.add_argument("--mcp", action="store_true", help="offer the endpoints as MCP tools too")
    chosen = parser.parse_args()
    if chosen.mcp and find_spec("mcp") is None:
        parser.error("--mcp needs the package mcp: install it with pip install 'gradio[mcp]'.")
    model = LongMemForCausalLM.from_pretrained(chosen.model)
    ui.build(model).launch(mcp_server=chosen.mcp, **ui.launch_options())
