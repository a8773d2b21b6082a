"""`ds-sync replay`: recorded sessions of one person or of several, through kills and cuts."""
