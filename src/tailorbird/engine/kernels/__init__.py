"""A training step with few passes over memory: decoder layers of Llama's kind with backward passes written by hand.

Over torch's own operators, so nothing is compiled and nothing has to be installed. `layers.install` puts them into a
model; whatever they do not know runs transformers' own forward.
"""
