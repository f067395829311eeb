"""`python -m mcpkeep.supervisor` is `mcpkeep`."""

import sys

from mcpkeep.supervisor.app import cli

if __name__ == "__main__":
    sys.exit(cli())
