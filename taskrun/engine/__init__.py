"""taskrun's own process engine; `backends/process.py` is its face. Start reading at `supervisor`."""
