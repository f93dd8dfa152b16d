"""Scanning: bytes in, a ScanResult out. Knows neither flows nor containers."""
