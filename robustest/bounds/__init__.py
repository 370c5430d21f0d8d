"""What is proven about a classifier, how tightly, and nothing else: brackets on the distance to misclassification."""
