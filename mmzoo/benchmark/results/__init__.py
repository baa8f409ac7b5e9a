"""The results folder: one folder per run, leases on runs in progress, status."""
