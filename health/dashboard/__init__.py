"""The first page of the operator's console: what happens now, and what happened in the last day.

Like all of `health` it reads from every app; nobody reads from it.
"""
