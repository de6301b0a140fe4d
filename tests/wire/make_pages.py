"""Fill the tables of docs/protocol/ from the code.

PYTHONPATH=tests python tests/wire/make_pages.py
"""

from support.protocol_pages import write_all

if __name__ == "__main__":
    write_all()
