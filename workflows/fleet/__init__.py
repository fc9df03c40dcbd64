"""The rows of GPU workers: heartbeats, which are alive, and the states operators want.

May import: metrics, notify, models. Start with `registry` (changes workers' rows); `overview` reads them for
display.
"""
