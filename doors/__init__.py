"""Doors: other software's protocols, mapped onto the functions behind our own API.

A door parses its clients' requests and renders their responses. It has no queue, permissions or limits of its
own, and renders errors with an `ErrorFormat` (`comfyserve.api`) or `error_shapes`. Doors do not import each
other.
"""
