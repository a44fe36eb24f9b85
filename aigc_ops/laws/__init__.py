"""Laws: tests that every model family must pass, of this package or of any other.

Run `pytest --pyargs aigc_ops.laws --family NAME`. Without `--family` all families are tested. Only
this package imports pytest.
"""
