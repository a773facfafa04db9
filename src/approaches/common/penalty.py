"""The quadratic penalty of EWC, MAS, SI and IMM's L2-transfer, which keeps weights near their old values."""


def squared_distance(parameters, old, importance=None):
    """Sum over all weights of importance * (p - p_old)^2; importance None means 1. Lists of tensors of equal shapes."""
    squares = ((p - q) ** 2 for p, q in zip(parameters, old, strict=True))
    if importance is not None:
        squares = (f * square for f, square in zip(importance, squares, strict=True))
    return sum(square.sum() for square in squares)
