"""Diagnosis: why averaging these checkpoints pays, or does not: measured, drawn, and said in words.

`landscape` is what is measured, `facts` what came out, `words` what it means, `run` the command's work.
"""

from hf_soups.diagnosis.run import Diagnosis, diagnose, print_diagnosis

__all__ = ["Diagnosis", "diagnose", "print_diagnosis"]
