"""Python imports this before anything else where its folder is in PYTHONPATH: for processes that others start."""

import os
from unittest import mock

from assay.exact.cuda import choice
from tests.exact.standin.driver import Driver
from tests.exact.standin.install import put_in

ALONE = "STANDIN_ALONE" in os.environ
if not ALONE:  # in the one of both tests that is in the quick run
    mock.patch.object(choice.Choices, "way", return_value=None).start()  # as run.unmeasured
put_in(Driver(peers=not ALONE, log=os.environ["STANDIN_LOG"]))
