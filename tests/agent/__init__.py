"""The resident agent and the native launcher as processes, in a host of the test's own."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))  # for what tests.netns and tests.crash have, however pytest is started
