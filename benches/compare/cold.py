"""The work kinds that begin with an empty cache."""

NAMES = []


def round_of_all(lab, names, stock, only, number, samples):
    return


def figures(samples):
    return {}


def show(rows):
    return
