"""The Model Context Protocol at /mcp (streamable HTTP, without sessions), for agents.

asgi       the application: authenticates as for any request, then the `mcp` package responds
server     the tools and their schemas, for the `mcp` package
resources  results and files as resources
tools      what the tools do
views      the entry point: credentials, rate limits, audit
"""
