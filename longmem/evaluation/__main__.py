"""The evaluations where typer is not installed: `python -m longmem.evaluation NAME --model FOLDER ...`.

Options are the fields of the evaluation's own dataclass: mostly those of `python -m longmem evaluate NAME`.
"""

import argparse
import sys
from importlib import import_module

from longmem.errors import one_line
from longmem.options import add_options, show, typed

MODULES = {name: name for name in ("attribution", "comparison", "efficiency", "needle", "perplexity", "staleness")}
MODULES |= {"icl": "in_context_learning", "retrieval": "comparison", "suffix": "suffix_identification"}


def main() -> None:
    """Measure what the first word names, and print its table."""
    parser = argparse.ArgumentParser(prog="python -m longmem.evaluation", description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(MODULES))
    name = parser.parse_args(sys.argv[1:2]).name
    module = import_module(f"longmem.evaluation.{MODULES[name]}")
    options = getattr(module, f"{name.title()}Options")
    own = argparse.ArgumentParser(prog=f"{parser.prog} {name}", description=module.__doc__.splitlines()[0])
    add_options(own, options, leave_out=["command"])
    given = vars(own.parse_args(sys.argv[2:]))
    with one_line():
        show(module.table(getattr(module, f"measure_{name}")(options(**given, command=typed("longmem.evaluation")))))


if __name__ == "__main__":
    main()
