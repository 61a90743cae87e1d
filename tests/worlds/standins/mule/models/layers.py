"""The layers that a saved MULE is loaded with."""


class ScalarMultiply:
    pass


class StochDepth:
    pass


class WeightStandardization:
    pass
