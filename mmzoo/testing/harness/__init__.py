"""What checks are built from: small tasks, cases, spies, a fake device, process groups, reports."""
