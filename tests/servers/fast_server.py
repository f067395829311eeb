"""The server behind fast.py: a complete small MCP server, both protocol eras, that misbehaves on demand.

Standard library only and few imports, so that it starts in little more than twice the time of a bare
interpreter; each message leaves in one write, as from real servers. README.md lists the flags and tools.
"""

from __future__ import annotations

import _thread
import json
import os
import sys

from fast_tables import (  # type: ignore[import-not-found,unused-ignore]
    BAD_DATA,
    BAD_FRAMES,
    CAPABILITIES,
    ENVELOPE,
    LEGACY,
    LEVELS,
    MODERN,
    PROMPTS,
    RESOURCES,
    TEMPLATES,
    TOOLS,
    read_settings,
    tool,
)

TYPE_CHECKING = False  # importing typing would cost a third of the start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    Json = dict[str, Any]


class Refused(Exception):
    """A request answered with an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Server:
    def __init__(self, flags: dict[str, str], settings: Json) -> None:
        self.flags = flags
        self.settings = settings
        self.info = {
            "name": "fast",
            "version": str(settings.get("version", "1.0")) + flags.get("--version-suffix", ""),
        }
        self.tools = [
            next((known for known in TOOLS if known["name"] == name), tool(name, f"Echo, as {name}", "text"))
            for name in settings.get("tools", [known["name"] for known in TOOLS])
        ]
        self.era = ""
        self.level = "debug"
        self.subscriptions: list[str] = []
        self.listeners: dict[Any, Json] = {}
        self.client: Any = None
        self.initialized = False
        self.roots_changed = 0
        self.cancelled: list[Any] = []
        self.answered = 0
        self.next_id = 0
        self.asked: dict[Any, tuple[Any, str]] = {}
        self.descendants: list[int] = []
        self.lock = _thread.allocate_lock()
        self.log_fd = -1
        self.methods: dict[str, Callable[[Any, Json], Json | None]] = {
            "initialize": self.initialize,
            "server/discover": self.discover,
            "ping": lambda _id, _params: {},
            "tools/list": lambda _id, params: self.listing("tools", self.tools, params),
            "tools/call": self.call,
            "resources/list": lambda _id, params: self.listing("resources", RESOURCES, params),
            "resources/templates/list": lambda _id, params: self.listing(
                "resourceTemplates", TEMPLATES, params
            ),
            "resources/read": self.read,
            "resources/subscribe": self.subscribe,
            "resources/unsubscribe": self.unsubscribe,
            "subscriptions/listen": self.listen,
            "prompts/list": lambda _id, params: self.listing("prompts", PROMPTS, params),
            "prompts/get": self.prompt,
            "completion/complete": self.complete,
            "logging/setLevel": self.set_level,
        }

    # Wire

    def write(self, data: bytes) -> None:
        with self.lock:
            while data:
                data = data[os.write(1, data) :]

    def send(self, message: Json) -> None:
        self.write(json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":")).encode() + b"\n")

    def notify(self, method: str, params: Json) -> None:
        self.send({"method": f"notifications/{method}", "params": params})

    def answer(self, id_: Any, result: Json, *, cacheable: bool = False) -> None:
        if self.era == MODERN:
            meta = {**result.get("_meta", {}), f"{ENVELOPE}serverInfo": self.info}
            result = {"resultType": "complete", **result, "_meta": meta}
            if cacheable:
                result = {"ttlMs": 0, "cacheScope": "private", **result}
        if "--noise" in self.flags:
            self.write(b"this is not a message\n")
        self.send({"id": id_, "result": result})
        self.answered += 1
        if "--close-stdout" in self.flags and self.answered == 1:
            os.close(1)

    def record(self, what: bytes) -> None:
        if self.log_fd >= 0:
            os.write(self.log_fd, b"%d %s\n" % (os.getpid(), what))

    # Dispatch

    def line(self, line: bytes) -> None:
        self.record(b"< " + line)
        try:
            message: Json = json.loads(line)
        except ValueError:
            self.send({"id": None, "error": {"code": -32700, "message": "not JSON"}})
            return
        method: str | None = message.get("method")
        params: Json = message.get("params") or {}
        if method is None:
            self.response(message)
        elif "id" not in message:
            self.notification(method, params)
        else:
            self.request(message["id"], method, params)

    def request(self, id_: Any, method: str, params: Json) -> None:
        if not self.era:
            self.era = MODERN if f"{ENVELOPE}protocolVersion" in params.get("_meta", {}) else LEGACY[-1]
            if "--legacy-only" in self.flags:
                self.era = LEGACY[-1]
        handle = self.methods.get(method)
        try:
            if handle is None:
                raise Refused(-32601, f"method not found: {method}")
            result = handle(id_, params)
        except Refused as refused:
            self.send({"id": id_, "error": {"code": refused.code, "message": str(refused)}})
            self.answered += 1
        else:
            if result is not None:
                self.answer(id_, result, cacheable=method.endswith("/list") or method == "server/discover")

    def notification(self, method: str, params: Json) -> None:
        if method == "notifications/initialized":
            self.initialized = True
        elif method == "notifications/roots/list_changed":
            self.roots_changed += 1
        elif method == "notifications/cancelled":
            self.cancelled.append(params.get("requestId"))
            self.listeners.pop(params.get("requestId"), None)

    def response(self, message: Json) -> None:
        """What the client said to one of our own requests becomes the answer of the call that asked."""
        asked = self.asked.pop(message.get("id"), None)
        if asked is None:
            self.record(b"stray response")
            return
        id_, what = asked
        said = message.get("result", message.get("error"))
        self.answer(id_, {"content": [text(f"{what}: {json.dumps(said, sort_keys=True)}")]})

    # Session

    def capabilities(self) -> Json:
        return {} if "--no-capabilities" in self.flags else CAPABILITIES

    def initialize(self, id_: Any, params: Json) -> Json | None:
        if "--hang-initialize" in self.flags:
            return None
        self.client = params.get("clientInfo")
        asked = params.get("protocolVersion")
        version = self.settings.get("protocol", asked if asked in LEGACY else LEGACY[-1])
        result = {
            "protocolVersion": self.flags.get("--protocol", version),
            "capabilities": self.capabilities(),
            "serverInfo": self.info,
        }
        if "instructions" in self.settings:
            result["instructions"] = self.settings["instructions"]
        return result

    def discover(self, id_: Any, params: Json) -> Json | None:
        if "--hang-initialize" in self.flags:
            return None
        if "--legacy-only" in self.flags or self.era != MODERN:
            raise Refused(-32601, "method not found: server/discover")
        self.client = params["_meta"].get(f"{ENVELOPE}clientInfo")
        return {"supportedVersions": [MODERN], "capabilities": self.capabilities()}

    def listing(self, key: str, items: list[Json], params: Json) -> Json:
        size = int(self.flags.get("--page", len(items) or 1))
        first = 0
        if cursor := params.get("cursor"):
            pid, _, offset = cursor.partition(":")
            if pid != str(os.getpid()):
                raise Refused(-32602, f"this cursor is not mine: {cursor!r}")
            first = int(offset)
        result: Json = {key: items[first : first + size]}
        if first + size < len(items):
            result["nextCursor"] = f"{os.getpid()}:{first + size}"
        return result

    def read(self, id_: Any, params: Json) -> Json:
        uri = params.get("uri", "")
        if not uri.startswith("test://"):
            raise Refused(-32002, f"no such resource: {uri!r}")
        return {"contents": [{"uri": uri, "mimeType": "text/plain", "text": f"the text of {uri}"}]}

    def subscribe(self, id_: Any, params: Json) -> Json:
        self.subscriptions.append(params["uri"])
        return {}

    def unsubscribe(self, id_: Any, params: Json) -> Json:
        if params["uri"] in self.subscriptions:
            self.subscriptions.remove(params["uri"])
        return {}

    def listen(self, id_: Any, params: Json) -> None:
        wanted = params.get("notifications", {})
        self.listeners[id_] = wanted
        meta = {f"{ENVELOPE}subscriptionId": id_}
        self.notify("subscriptions/acknowledged", {"notifications": wanted, "_meta": meta})

    def prompt(self, id_: Any, params: Json) -> Json:
        if not any(prompt["name"] == params.get("name") for prompt in PROMPTS):
            raise Refused(-32602, f"no such prompt: {params.get('name')!r}")
        topic = params.get("arguments", {}).get("topic", "nothing")
        return {"messages": [{"role": "user", "content": text(f"{params['name']} {topic}")}]}

    def complete(self, id_: Any, params: Json) -> Json:
        start = params["argument"]["value"]
        values = [word for word in ("alpha", "beta", "betula") if word.startswith(start)]
        return {"completion": {"values": values, "total": len(values), "hasMore": False}}

    def set_level(self, id_: Any, params: Json) -> Json:
        self.level = params["level"]
        return {}

    # Tools

    def call(self, id_: Any, params: Json) -> Json | None:
        name = params.get("name")
        arguments: Json = params.get("arguments") or {}
        if name not in {listed["name"] for listed in self.tools}:
            raise Refused(-32602, f"no such tool: {name!r}")
        if (bad := self.flags.pop("--bad", None)) is not None:
            if bad in BAD_FRAMES:
                self.write(BAD_FRAMES[bad] + b"\n")
            else:
                self.write(
                    b'{"jsonrpc":"2.0","id":%s,"result":%s}\n' % (json.dumps(id_).encode(), BAD_DATA[bad])
                )
                return None
        if "--die-mid-line" in self.flags:
            self.die_mid_line(id_)
        do: Callable[[Any, Json, Json], Json | None] | None = getattr(self, f"tool_{name}", None)
        return (do or self.tool_echo)(id_, arguments, params)

    def tool_echo(self, id_: Any, arguments: Json, params: Json) -> Json:
        return {"content": [text(str(arguments.get("text", "")))]}

    def tool_blob(self, id_: Any, arguments: Json, params: Json) -> Json:
        return {"content": [text("x" * int(arguments.get("size", 0)))]}

    def tool_whoami(self, id_: Any, arguments: Json, params: Json) -> Json:
        facts = {
            "pid": os.getpid(),
            "version": self.info["version"],
            "era": self.era,
            "level": self.level,
            "subscriptions": self.subscriptions,
            "listeners": list(self.listeners),
            "client": self.client,
            "initialized": self.initialized,
            "roots_changed": self.roots_changed,
            "cancelled": self.cancelled,
            "grandchildren": self.descendants,
        }
        return {"content": [text(json.dumps(facts))], "structuredContent": facts}

    def tool_wait(self, id_: Any, arguments: Json, params: Json) -> None:
        def wait() -> None:
            wait_for(arguments["fifo"])
            self.answer(id_, {"content": [text(str(arguments.get("text", "waited")))]})

        _thread.start_new_thread(wait, ())

    tool_wait_read_only = tool_wait
    tool_wait_idempotent = tool_wait

    def tool_block(self, id_: Any, arguments: Json, params: Json) -> Json:
        wait_for(arguments["fifo"])
        return {"content": [text("unblocked")]}

    def tool_progress(self, id_: Any, arguments: Json, params: Json) -> None:
        token, steps = params.get("_meta", {}).get("progressToken"), int(arguments.get("steps", 3))

        def work() -> None:
            if token is not None:
                for step in range(1, steps + 1):
                    self.notify("progress", {"progressToken": token, "progress": step, "total": steps})
            if "fifo" in arguments:
                wait_for(arguments["fifo"])
            self.answer(id_, {"content": [text(f"{steps} steps")]})

        _thread.start_new_thread(work, ())

    def tool_crash(self, id_: Any, arguments: Json, params: Json) -> Json | None:
        how = arguments.get("how", "kill")
        sys.stderr.write(f"fast.py: crashing on demand: {how}\n")
        sys.stderr.flush()
        if how == "kill":
            os.kill(os.getpid(), 9)
        elif how == "exit":
            os._exit(int(arguments.get("code", 1)))
        elif how == "mid-line":
            self.die_mid_line(id_)
        elif how == "after-answer":
            self.answer(id_, {"content": [text("and gone")]})
            os.kill(os.getpid(), 9)
        elif how == "close-stdout":
            os.close(1)
            return None
        raise Refused(-32602, f"no such way to crash: {how!r}")

    def tool_ask(self, id_: Any, arguments: Json, params: Json) -> Json | None:
        what = arguments.get("what", "sampling")
        questions: dict[str, tuple[str, Json]] = {
            "sampling": (
                "sampling/createMessage",
                {"messages": [{"role": "user", "content": text("what now?")}], "maxTokens": 10},
            ),
            "elicitation": (
                "elicitation/create",
                {
                    "mode": "form",
                    "message": "which colour?",
                    "requestedSchema": {"type": "object", "properties": {"colour": {"type": "string"}}},
                },
            ),
            "roots": ("roots/list", {}),
            "ping": ("ping", {}),
        }
        if what not in questions or (what == "ping" and self.era == MODERN):
            raise Refused(-32602, f"no such question in this era: {what!r}")
        method, question = questions[what]
        if self.era == MODERN:
            state = f"state of {os.getpid()}"
            if "inputResponses" not in params:
                asking = {what: {"method": method, "params": question}}
                return {"resultType": "input_required", "inputRequests": asking, "requestState": state}
            if params.get("requestState") != state:
                raise Refused(-32602, f"this requestState is not mine: {params.get('requestState')!r}")
            return {
                "content": [text(f"{what}: {json.dumps(params['inputResponses'][what], sort_keys=True)}")]
            }
        self.asked[self.next_id] = (id_, what)
        self.send({"id": self.next_id, "method": method, "params": question})
        self.next_id += 1
        return None

    def tool_log(self, id_: Any, arguments: Json, params: Json) -> Json:
        level = arguments.get("level", "info")
        least = self.level
        if self.era == MODERN:
            least = params.get("_meta", {}).get(f"{ENVELOPE}logLevel", "")
        if least in LEVELS and LEVELS.index(level) >= LEVELS.index(least):
            self.notify("message", {"level": level, "data": arguments.get("text", "")})
        return {"content": [text("logged")]}

    def tool_changed(self, id_: Any, arguments: Json, params: Json) -> Json:
        what, uri = arguments.get("what", "tools"), arguments.get("uri", "test://one")
        method = "resources/updated" if what == "resource" else f"{what}/list_changed"
        body = {"uri": uri} if what == "resource" else {}
        if self.era != MODERN:
            self.notify(method, body)
        for listener, wanted in self.listeners.items():
            if wanted.get(f"{what}ListChanged") or uri in wanted.get("resourceSubscriptions", ()):
                self.notify(method, {**body, "_meta": {f"{ENVELOPE}subscriptionId": listener}})
        return {"content": [text("told")]}

    def tool_flood(self, id_: Any, arguments: Json, params: Json) -> Json:
        stream, size = arguments.get("stream", "stderr"), int(arguments.get("size", 1000))
        for number in range(int(arguments.get("count", 1000))):
            if stream == "log":
                self.notify("message", {"level": "info", "data": f"{number} " + "x" * size})
            elif stream == "stdout":
                self.write(b"x" * size + b"\n")
            else:
                os.write(2, b"x" * size + b"\n")
        return {"content": [text("flooded")]}

    def die_mid_line(self, id_: Any) -> NoReturn:
        self.write(json.dumps({"jsonrpc": "2.0", "id": id_, "result": {"content": []}}).encode()[:-7])
        os.kill(os.getpid(), 9)
        raise AssertionError

    # Life

    def start(self) -> None:
        flags = self.flags
        if "--record" in flags:
            self.log_fd = os.open(flags["--record"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.record(b"start")
        if "--liveness" in flags:
            os.set_inheritable(os.open(flags["--liveness"], os.O_WRONLY | os.O_NONBLOCK), True)
        if "--ignore-term" in flags:
            import signal

            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if "--fork" in flags:
            self.fork(session=False)
        if "--fork-session" in flags:
            self.fork(session=True)
        flood(2, int(flags.get("--flood-stderr", 0)))
        flood(1, int(flags.get("--flood-stdout", 0)))
        if "--die-at-start" in flags:
            sys.stderr.write(f"fast.py: dying at start with code {flags['--die-at-start']}\n")
            sys.exit(int(flags["--die-at-start"]))

    def fork(self, *, session: bool) -> None:
        """Leave a process behind that never ends by itself; its pid is known before the server serves."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            if session:
                os.setsid()
                if os.fork():
                    os._exit(0)
            os.write(writing, b"%d\n" % os.getpid())
            while True:
                wait_for_ever()
        if session:
            os.waitpid(child, 0)
        self.descendants.append(int(os.read(reading, 20)))
        os.close(reading)
        os.close(writing)

    def serve(self) -> None:
        pieces: list[bytes] = []  # of a line whose end has not come: joining at once would be quadratic
        while data := os.read(0, 1 << 20):
            *lines, rest = data.split(b"\n")
            for line in lines:
                pieces.append(line)
                whole = b"".join(pieces)
                pieces.clear()
                if whole:
                    self.line(whole)
            if rest:
                pieces.append(rest)
        while "--ignore-eof" in self.flags:
            wait_for_ever()
        self.record(b"end")


def text(value: str) -> Json:
    return {"type": "text", "text": value}


def wait_for(fifo: str) -> None:
    """Return when somebody has opened the FIFO for writing and closed it again."""
    fd = os.open(fifo, os.O_RDONLY)
    while os.read(fd, 1):
        pass
    os.close(fd)


def wait_for_ever() -> None:
    import signal

    signal.pause()


def flood(fd: int, size: int) -> None:
    while size > 0:
        size -= os.write(fd, b"x" * min(size - 1, 999) + b"\n")


def main() -> None:
    server = Server(*read_settings(sys.argv[1:]))
    server.start()
    server.serve()
    os._exit(0)  # threads may wait in a FIFO
