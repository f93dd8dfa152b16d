"""Our CA: make it, keep it, teach containers to trust it."""
