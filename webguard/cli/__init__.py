"""The command line: parse, ask the daemon, print. One file per command."""
