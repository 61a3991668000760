"""One host per user and machine: it keeps the models for all processes.

`app` serves it, `process` starts or joins it, `client` is the `Backend` that talks to it, `wire`
is what both sides know.
"""
