"""Move jobs from submit to their one final state."""
