"""Executions, from submission to webhook.

models        the tables
graph         the workflow as it was sent: formats, node definitions, the files and models that it names
queue         submission, order, quotas' holds, claims, and every change of a status
worker        the GPU worker: slots, one execution on ComfyUI, its outputs
webhooks      the outbox, signatures, sending with retries
delivery      outputs on their way to users' buckets
fleet         which workers there are, and how they are
streaming     live events, and `Prefer: wait`
presentation  executions as they are read: selectors and representations
api, admin    the REST endpoints; the console's pages
metrics       counters and histograms
flower        Celery's dashboard

Beside them: `tasks` (Celery's entry points), `cleaning` (old rows and files), `checks` (settings), `notify`
(wakes workers, streams and senders through Redis), `task_events` (executions as Flower's tasks),
`delayed_tickets` (tickets that Redis missed).
"""
