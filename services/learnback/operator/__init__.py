"""The operator: releases as Kubernetes objects of the kind ModelRelease. Off by default.

Belongs here: mirroring what the release process says, and handing on what people wish by editing
objects. Does not belong here: deciding anything about a release, or touching any other object.
"""
