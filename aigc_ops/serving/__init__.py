"""Serving: the HTTP service of a model, and the Bento that packages it."""
