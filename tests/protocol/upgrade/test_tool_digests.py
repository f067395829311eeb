"""The digest of a tool: what tools/list says of it, whatever the order, and nothing else."""

from mcpkeep.protocol.upgrade.proof import compare_tools, tool_digests

TOOL = {
    "name": "echo",
    "description": "says it again",
    "inputSchema": {"type": "object", "required": ["text"]},
    "annotations": {"readOnlyHint": True},
}


def test_two_servers_that_describe_a_tool_alike_have_the_same_digest_for_it() -> None:
    other = {"title": "not compared", **dict(reversed(TOOL.items()))}
    other["inputSchema"] = {"required": ["text"], "type": "object"}
    assert tool_digests([other]) == tool_digests([TOOL])


def test_whatever_matters_to_a_caller_changes_the_digest() -> None:
    before = tool_digests([TOOL])
    for key, value in (
        ("description", "else"),
        ("inputSchema", {}),
        ("outputSchema", {}),
        ("annotations", {"readOnlyHint": False}),
    ):
        assert compare_tools(before, tool_digests([{**TOOL, key: value}])).changed == ("echo",)
