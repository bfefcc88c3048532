"""Results as JSON files: numbers with the digits that mean something, and a file that is whole or not there."""

import json
from pathlib import Path


def rounded(value: object) -> object:
    """Numbers with the digits that mean something, and null for what is not a number."""
    if isinstance(value, float):
        return None if value != value or value in (float("inf"), float("-inf")) else float(f"{value:.6g}")
    if isinstance(value, dict):
        return {str(key): rounded(part) for key, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list | tuple) else value


def write_json(path: Path, result: dict) -> None:
    """Write a result so that a kill leaves the old file or the new one. Errors: OSError."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(rounded(result), indent=1) + "\n", encoding="utf-8")
    part.replace(path)
