"""Doors: other software's protocols, mapped onto the functions that our own API calls.

A door reads what its clients send and answers in their shapes. It has no queue, no permissions and no limits
of its own. Doors do not import each other.
"""
