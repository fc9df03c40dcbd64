"""The gate: event-loop checks that every request passes before it reaches a request thread.

    application   header names, credentials before large bodies, buffering of bodies, rejections
    routes        how large a body may be and how long it may take, route by route
    lanes         how many costly requests are handled at once: large bodies, password hashes
    threads       Django's handling in a request thread, and sending its response
    protocol      uvicorn's HTTP protocol with a deadline and a limit for the headers
    websocket_protocol  uvicorn's websocket protocol, which logs no error for a refused handshake

A request thread receives a complete body and passes its response to the event loop: it never
waits for a client.
"""
