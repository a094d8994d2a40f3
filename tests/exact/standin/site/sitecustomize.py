"""Python imports this before anything else where its folder is in PYTHONPATH: for processes that others start."""

import os

from tests.exact.standin.driver import Driver
from tests.exact.standin.install import put_in

put_in(Driver(peers="STANDIN_ALONE" not in os.environ, log=os.environ["STANDIN_LOG"]))
