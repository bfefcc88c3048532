"""The studio in a browser: `python app.py`; `python app.py --help` lists its options."""

from app import ui, zero_gpu
from app.launching import open_model, parse

if __name__ == "__main__":
    chosen = parse()
    gpu = zero_gpu.decorator()
    model = open_model(chosen, device=gpu and "cpu")
    workers = gpu and zero_gpu.ZeroGpu(model, gpu)
    limits = {"byte_budget": chosen.max_memory, "max_file_bytes": chosen.max_file_size}
    demo = ui.build(model, **limits, zero_gpu=workers)
    demo.launch(auth=chosen.auth, mcp_server=chosen.mcp, **ui.launch_options(chosen.max_file_size))
