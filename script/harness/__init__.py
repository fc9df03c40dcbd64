"""ComfyServe as real processes, and plain clients of it: used by `script/faults`, tests and benchmarks.

`stack` starts the web process and workers; `relay` is a network line that can be cut, held and slowed;
`receiver` takes webhooks; `sse` reads streams; `graphs` has workflows; `waiting` waits for a condition.
"""
