"""PostgreSQL as all apps use it: connections, retries while it is unavailable, rows of hand-written SQL.

Imports nothing of the apps. Begin with `connections`.
"""
