"""The studio in a browser: `python app.py`; `python app.py --help` lists its options."""

from app import ui
from app.launching import open_model, parse

if __name__ == "__main__":
    chosen = parse()
    demo = ui.build(open_model(chosen), byte_budget=chosen.max_memory, max_file_bytes=chosen.max_file_size)
    demo.launch(auth=chosen.auth, mcp_server=chosen.mcp, **ui.launch_options(chosen.max_file_size))
