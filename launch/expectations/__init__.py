"""What a recipe says must be true of a stage's output at smoke scale (`expect:`), and how it is found out."""
