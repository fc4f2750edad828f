"""The command line of this room, one file for each command."""
