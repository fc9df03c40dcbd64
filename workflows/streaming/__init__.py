"""Live event streams and `Prefer: wait`, served from the event loop without a thread per client.

May import: queue and everything below it; not worker, api or admin. Begin with `asgi`, then `broadcaster`
(one database read and one Redis connection for all streams of a process).
"""
