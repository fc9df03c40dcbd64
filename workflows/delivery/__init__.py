"""Outputs to where their user wants them: planned at submission, written with the end, sent with retries.

May import: webhooks and everything below it. Begin with `plan`, then `sender`,
then `redelivery`.
"""
