"""Run what the store gives out: claims become calls of worker processes, their ends become endings."""
