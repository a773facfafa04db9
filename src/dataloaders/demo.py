"""placeholder"""
NAMES=(); FAMILY='alexnet'; SHAPE=(3,32,32); DEFAULTS={}
