"""Models, losses, schedules, metrics and the two training loops; nothing here knows Ray."""
