"""Outgoing webhooks: the outbox written with each status change, signing, and delivery with retries.

May import: presentation and everything below it. Begin with `outbox`, then `dispatcher`
(one delivery) and `deliverer` (the threads that send them, for `workflows.delivery` too).
"""
