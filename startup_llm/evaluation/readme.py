"""The name under which `python -m startup_llm.evaluation.readme` was documented; see `startup_llm.runs.readme`."""

import sys

from startup_llm.errors import run_recipe
from startup_llm.runs.readme import main

if __name__ == "__main__":
    run_recipe(lambda: main(*sys.argv[1:]))
