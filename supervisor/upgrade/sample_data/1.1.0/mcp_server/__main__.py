"""Starts the server: `python -m mcp_server --transport dual`."""

import argparse

from mcp_server.server import run


def main() -> None:
    parser = argparse.ArgumentParser(prog="mcp_server", description=__doc__)
    parser.add_argument("--transport", choices=("dual", "stdio", "http"), required=True)
    parser.add_argument("--log-level", default="INFO")
    run(parser.parse_args().transport)


if __name__ == "__main__":
    main()
