"""Ranks that are asked and do not answer are given up after a second."""

from biolm.pretrain.engines import watch

watch.ANSWER = 1.0
