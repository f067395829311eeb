"""The yardstick: a relay that looks at nothing, one thread for each direction. `pump.py COMMAND...`."""

import os
import subprocess
import sys
from threading import Thread

CHUNK = 64 * 1024


def pump(source: int, sink: int) -> None:
    while data := os.read(source, CHUNK):
        while data:
            data = data[os.write(sink, data) :]


def main() -> int:
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert child.stdin is not None and child.stdout is not None
    Thread(target=pump, args=(child.stdout.fileno(), 1), daemon=True).start()
    pump(0, child.stdin.fileno())
    child.stdin.close()
    return child.wait()


if __name__ == "__main__":
    sys.exit(main())
