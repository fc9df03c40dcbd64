"""PostgreSQL access shared by all apps: connections, retries while it is unavailable, mapping of hand-written
SQL.

Imports no app. Start with `connections`.
"""
