"""What is laid beside the published numbers of any paper, and how it is shown."""
