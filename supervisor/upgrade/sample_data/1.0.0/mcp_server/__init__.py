"""The MCP server of prAxIs OS."""
