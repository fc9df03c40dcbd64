"""The queue of record in PostgreSQL: submission, ordering, claims, and every status change.

May import: delivery and everything below it. Start with `state_machine`: only it and `requeueing` change a
status, with the statements of `transitions`; `claims` provides the token that fences each change,
`scheduling` decides what runs next. Views call `submission`, and `commands` for existing executions.
"""
