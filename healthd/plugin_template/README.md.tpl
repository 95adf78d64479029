# {{distribution}}

A camera source for healthd, the camera daemon.

```
pip install {{distribution}}
```

```toml
# config.toml
[cameras.{{camera}}]
plugin = "{{plugin}}"

[cameras.{{camera}}.options]
step = 8
```

| option | default | meaning |
| --- | --- | --- |
| `step` | 8 | How much lighter each picture is than the one before. |
| `fps` | 25 | Pictures per second. |

## Changing it

```
pip install -e '.[dev]'
pytest                                  # includes healthd's conformance suite
ruff check . && ruff format --check .
mypy
healthd plugins check {{plugin}}
```

## Licence

None chosen yet: without one, nobody may use it. Choose one in `pyproject.toml` and add a file `LICENSE`.
