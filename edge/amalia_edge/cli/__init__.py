"""The command line of this room, and the door through which all rooms' commands are found."""
