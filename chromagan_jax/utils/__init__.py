"""What all commands share: files, progress and metrics, the watchdog, requests to stop, flags."""
