"""What a model card says: facts of a soup's or a cascade's folder, their tables, and the template around them."""
