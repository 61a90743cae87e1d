"""Tests of an effect against the smallest one that matters: difference, superiority, non-inferiority, equivalence.

A test of `effect = 0` says whether an effect is there, not whether it matters, and its failure is no evidence that
nothing is there. With the smallest effect that matters, m, fixed beforehand:

    superiority       effect <= m is refused: better, and by more than matters
    non-inferiority   effect <= -m is refused: worse at most by less than matters
    equivalence       effect <= -m and effect >= m are both refused (two one-sided tests, TOST)

A Claim's direction is what its sentence asserts, and its range of effects is where it is true:

    above       m < effect            not-below   -m < effect
    equal       -m < effect < m       differs     effect < -m or m < effect

The verdict asks whether an interval lies wholly inside that range (holds) or wholly outside (fails). `p_inside` and
`p_outside` are the levels at which it would: an interval of confidence 1 - a lies inside exactly where p_inside < a.

Sources: Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987 (TOST); Lakens, Soc. Psychol. Personal. Sci. 8, 2017; Sakai,
"Statistical reform in information retrieval?", SIGIR Forum 48, 2014.
"""
DIRECTIONS = ("above", "not-below", "equal", "differs")


def p_difference(result):
    """Two-sided p value of `effect = 0`."""
    return two_sided(result.p_above(0.0), result.p_below(0.0))


def p_superior(result, smallest):
    """One-sided p value of `effect <= smallest`."""
    return result.p_above(smallest)


def p_not_inferior(result, smallest):
    """One-sided p value of `effect <= -smallest`."""
    return result.p_above(-smallest)


def p_equivalent(result, smallest):
    """p value of the two one-sided tests: the larger of `effect <= -smallest` and `effect >= smallest`."""
    return max(result.p_above(-smallest), result.p_below(smallest))


def two_sided(above, below):
    return min(1.0, 2 * min(above, below))


def p_inside(result, direction, smallest):
    """The least a at which the interval of confidence 1 - a lies wholly where the claim is true."""
    if direction == "above":
        return min(1.0, 2 * p_superior(result, smallest))
    if direction == "not-below":
        return min(1.0, 2 * p_not_inferior(result, smallest))
    if direction == "equal":
        return min(1.0, 2 * p_equivalent(result, smallest))
    return min(1.0, 2 * min(result.p_above(smallest), result.p_below(-smallest)))


def p_outside(result, direction, smallest):
    """The least a at which the interval of confidence 1 - a lies wholly where the claim is false."""
    if direction == "above":
        return min(1.0, 2 * result.p_below(smallest))
    if direction == "not-below":
        return min(1.0, 2 * result.p_below(-smallest))
    if direction == "equal":
        return p_inside(result, "differs", smallest)
    return p_inside(result, "equal", smallest)


def distance(effect, direction, smallest):
    """How far an effect is from the nearest bound of the claim's range, at least 0."""
    if direction == "above":
        return abs(effect - smallest)
    if direction == "not-below":
        return abs(effect + smallest)
    return abs(abs(effect) - smallest)
