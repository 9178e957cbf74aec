"""The gRPC services, one module each: from a request to its reply.

May import everything in `headwise_server` except `app`, `commands` and `cli`, which start a server, and the engines'
own modules, which `engines` loads by name.
"""
