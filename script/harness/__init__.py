"""ComfyServe as real processes, and plain clients of it: used by `script/faults`, tests and benchmarks.

`stack` starts the web process and workers; `relay` is a network link that can be cut, stalled and slowed;
`receiver` receives webhooks; `sse` reads streams; `graphs` has workflows; `waiting` waits for a condition.
"""
