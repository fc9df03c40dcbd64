"""The queue of record in PostgreSQL: submission, the order, claims, and every change of status.

May import: graph, webhooks, fleet, presentation, metrics, notify, models. Begin with `state_machine`: it and
`requeueing` alone change a status; `claims` fences each change, `scheduling` decides who is next.
"""
