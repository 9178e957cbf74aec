"""The same models over HTTP: the Open Inference Protocol in JSON, Classify and Explain of a picture, metrics.

Handlers make the messages that the gRPC services take, call what those call, and write the replies as JSON.
"""
