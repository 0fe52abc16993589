"""What image files are called, and samples of them; imports nothing, so that wrong names are reported at once."""

#: The suffixes of image files.
IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')


def evenly(count: int, most: int) -> list[int]:
    """Positions spread evenly over ``count``, ``most`` of them at most."""
    number = min(count, most)
    return [i * count // number for i in range(number)]
