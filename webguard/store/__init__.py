"""What happened: events as they leave the process."""
