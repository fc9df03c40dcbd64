"""The start page of the operator's console: the current state, and the last day.

Like all of `health` it reads from every app; no app reads from it.
"""
