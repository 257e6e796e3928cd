"""What stands in a model card: facts of a soup's or a cascade's folder, their tables, and the template around them."""
