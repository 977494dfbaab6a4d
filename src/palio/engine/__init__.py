"""Acts on what core decides: batchers, workers, lifecycles, and the one `infer` behind every door.

Never decides who runs together (core does), never knows a protocol (the doors do).
"""
