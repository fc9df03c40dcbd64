"""The gate in the event loop that every request passes before a request thread sees any of it.

    application   header names, credentials before large bodies, bodies read whole, refusals
    routes        how large a body may be and how long it may take, route by route
    lanes         how many costly requests are handled at once: large bodies, password hashes
    threads       Django's handling in a request thread, and its response on the way to the client
    protocol      uvicorn's HTTP protocol with a deadline and a limit for the headers

A request thread gets a body that has arrived whole, and hands its response to the event loop: it never
waits for a client.
"""
