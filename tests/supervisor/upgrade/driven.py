"""`mcpkeep run` whose live server obeys orders: one JSON array per line on a socket, one answer per line."""

import os
import sys
from collections.abc import Callable, Coroutine

import anyio
import msgspec
from anyio.streams.buffered import BufferedByteReceiveStream

from mcpkeep.actors.relay import RequestFailed
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.supervisor import tree
from mcpkeep.supervisor.app import main
from mcpkeep.supervisor.upgrade.live import RunningServer

ELICITATION = {"mode": "form", "message": "which?", "requestedSchema": {"type": "object", "properties": {}}}


class DrivenTree(tree._Tree):  # pyright: ignore[reportPrivateUsage]
    def _extras(self) -> list[Callable[[], Coroutine[None, None, None]]]:
        return [*super()._extras(), self._drive]

    async def _drive(self) -> None:
        live = RunningServer(
            child=self._child,
            relay=self._relay,
            stderr_lines=self._host.stderr_lines,
            start_limit=20,
            stop_limit=5,
        )
        steps: list[str] = []
        async with await anyio.connect_unix(os.environ["DRIVER"]) as orders:
            lines = BufferedByteReceiveStream(orders)
            while True:
                try:
                    line = await lines.receive_until(b"\n", 1 << 20)
                except (anyio.IncompleteRead, anyio.EndOfStream):
                    return
                what, *words = msgspec.json.decode(line)
                try:
                    answer = await self._obey(live, steps, what, words)
                except UpgradeFailed as error:
                    answer = {"failed": str(error), "details": error.details}
                except RequestFailed as error:
                    answer = {"failed": str(error)}
                await orders.send(msgspec.json.encode(answer) + b"\n")

    async def _obey(self, live: RunningServer, steps: list[str], what: str, words: list[object]) -> object:
        match what:
            case "serving":
                return live.serving
            case "tools":
                return await live.tools()
            case "call":
                return await live.call(str(words[0]), {"text": "x"}, within=10)
            case "start":
                await live.start(str(words[0]), progress=steps.append)
                return steps
            case "promote":
                await live.promote(freeze=bool(words[0]))
                return None
            case "drop":
                await live.drop()
                return None
            case "frozen":
                return live.frozen()
            case "end_frozen":
                await live.end_frozen()
                return None
            case "stderr":
                return live.stderr_since_switch()
            case "elicit":
                return await self._relay.ask_client("elicitation/create", ELICITATION, within=10)
            case "release":
                return self._child.release
            case _:
                return None


if __name__ == "__main__":
    tree._Tree = DrivenTree  # type: ignore[misc]  # pyright: ignore[reportPrivateUsage]
    sys.exit(main(["run", *sys.argv[1:]]))
