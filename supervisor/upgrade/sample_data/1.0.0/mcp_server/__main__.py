"""Starts the server: `python -m mcp_server`. It takes no options."""

import argparse

from mcp_server.server import run


def main() -> None:
    argparse.ArgumentParser(prog="mcp_server", description=__doc__).parse_args()
    run("stdio")


if __name__ == "__main__":
    main()
