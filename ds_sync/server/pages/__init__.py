"""What a server shows to people: the inspector and the demo."""
