"""mitmproxy addons: one file, one class, one job."""
