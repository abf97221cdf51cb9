"""Teachers, pairs that they label, and students: the part of a recipe that wants an accelerator.

It reads one folder and writes another, and needs torch, NumPy and safetensors alone, nothing else
of this project: so both folders, and this one, can be carried to a machine that has one.
"""
