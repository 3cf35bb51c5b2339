"""What would be read and fed before anything is: `tilezoo inspect`."""
