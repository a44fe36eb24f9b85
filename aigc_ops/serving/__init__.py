"""Serving: the service that answers requests, and the Bento it is shipped in."""
