"""Engines: how a step's computation is distributed over processes. The loop knows only `engine.Engine`."""
