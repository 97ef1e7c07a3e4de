"""A run whose queue, worker and driver are one process, without Ray: python -m tests.faults.one_process RECIPE.

It starts in a second, also on a busy machine; a kill ends all of it at once.
"""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness import run_in_process

from stillhouse.schemas.recipe_file import read_recipe

if __name__ == "__main__":
    print(asyncio.run(run_in_process(read_recipe(Path(sys.argv[1])))).model_dump_json())
