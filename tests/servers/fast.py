"""Starts fast_server.py beside this file as an import, so that its compiled form is found in the cache."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from fast_server import main  # type: ignore[import-not-found,unused-ignore]

main()
