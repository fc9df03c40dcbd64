"""The REST endpoints of executions, their streams and webhooks: parse, call one function, render.

May import: streaming, queue and everything below them; not worker or admin. Begin with `views`.
"""
