"""The Model Context Protocol at /mcp (streamable HTTP, without sessions), for agents.

asgi       the application: who asks is found as for any request, then the `mcp` package answers
server     the tools and their schemas, for the `mcp` package
resources  results and files as resources
tools      what the tools do
views      the way into it: credentials, rate limits, audit
"""
