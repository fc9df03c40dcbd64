"""The first page of the operator's console: what happens now, and what happened in the last day.

Beside `health` it is the only one that reads from all apps; nobody reads from it.
"""
