"""The guarded outbound HTTP client: resolve, validate and pin an address, with size and time limits.

Imports no app. Start with `client`.
"""
