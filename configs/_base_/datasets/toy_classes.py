"""The classes of the small data set that ``mnv2 toy data/toy`` draws, and their colours."""

classes = ('ellipse', 'ring', 'rectangle', 'triangle', 'star', 'cross', 'crescent', 'arrow')
palette = [
    (230, 57, 70),
    (255, 159, 28),
    (255, 221, 0),
    (82, 183, 60),
    (0, 187, 190),
    (52, 120, 246),
    (155, 81, 224),
    (240, 98, 190),
]
