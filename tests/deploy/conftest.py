from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # Ray Serve warns of its own use of pydantic when it is first imported.
    warnings.simplefilter("ignore")
    import ray.serve.schema  # noqa: F401
