"""A server of a registry that speaks the Hugging Face Hub's API."""
