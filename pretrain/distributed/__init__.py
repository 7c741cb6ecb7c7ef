"""Engines: how a step's arithmetic is spread over processes. The loop knows only `base.Engine`."""
