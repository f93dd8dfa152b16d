"""Webguard protects the containers of a Linux host. See docs/design.md for the rooms."""
