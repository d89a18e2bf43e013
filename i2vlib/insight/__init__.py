"""What a model looks at, as numbers: attention of every head, evidence for a class."""
