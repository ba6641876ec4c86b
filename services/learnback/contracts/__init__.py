"""All that the processes say to each other: messages, streams and the words they share.

Belongs here: pydantic models and enumerations that cross a process boundary.
Does not belong here: anything that opens a connection, reads a setting or imports a package
other than pydantic.
"""
