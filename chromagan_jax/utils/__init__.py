"""Shared helpers of all commands: files, progress, metrics, watchdog, stop requests, flags."""
