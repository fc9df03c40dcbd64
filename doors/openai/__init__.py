"""OpenAI's image and video API at /v1, for clients that speak it: `model` is the address of an app.

parameters   what a request may carry, and the app inputs that it becomes
models       which apps there are, and the names that an operator gave to some
answers      the body of an answer, once the executions have ended
errors       OpenAI's shape of an error
uploads      files that come with a form
videos       executions as OpenAI's videos
views        the endpoints; video_views those of videos
"""
