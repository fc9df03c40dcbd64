"""OpenAI's image and video API at /v1, for clients that use it: `model` is the address of an app.

uploads          the pictures of an edit
videos           /v1/videos: a video as an execution; `video_views` has its endpoints
parameters       the fields of a request, and the app inputs they become
models           the list of apps, and the aliases that an operator gave to some
answers          the body of a response, once the executions have ended
partial_images   some of ComfyUI's previews, as events of a stream
errors           OpenAI's error format
views            the endpoints
"""
