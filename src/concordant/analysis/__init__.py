"""What the predictions say about fusion. No torch."""
