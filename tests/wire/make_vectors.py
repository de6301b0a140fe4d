"""Write the test vectors anew, after a change of the wire that was meant: see docs/protocol/.

PYTHONPATH=tests python tests/wire/make_vectors.py
"""

from support.vectors import write_all

if __name__ == "__main__":
    write_all()
