"""Cases that a round of the tests leaves out."""

from functools import partial

import pytest

FULL = partial(pytest.param, marks=pytest.mark.full)
"""A case that is much like another one: for the long round alone."""
