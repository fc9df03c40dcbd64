"""The queue of record in PostgreSQL: submission, ordering, claims, and every status change.

May import: graph, webhooks, fleet, presentation, metrics, notify, models. Start with `state_machine`:
only it and `requeueing` change a status; `claims` provides the token that fences each change, `scheduling`
decides what runs next.
"""
