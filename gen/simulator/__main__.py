"""`python -m stillhouse.gen.simulator HOST PORT`: the process that `gen.simulator.start` starts."""

import sys

from stillhouse.gen.simulator.process import main

sys.exit(main(sys.argv[1], int(sys.argv[2])))
