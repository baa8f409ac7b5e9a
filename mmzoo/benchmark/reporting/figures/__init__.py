"""Figures as files, and the map of who wins where: its cells as a table and as a chart."""
