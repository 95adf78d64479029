[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "{{distribution}}"
version = "0.1.0"
description = "A camera source for healthd: {{plugin}}."
readme = "README.md"
requires-python = ">=3.11"
# license = "MIT"                 # choose one, put its text into a file LICENSE, and say so in README.md
# license-files = ["LICENSE"]
keywords = ["healthd", "camera"]
classifiers = ["Typing :: Typed"]
dependencies = ["healthd>={{version}}", "numpy>=1.26"]

[project.optional-dependencies]
dev = ["mypy", "pytest", "ruff"]

# The name on the left is the `plugin` of a configuration.
[project.entry-points."healthd.camera_sources"]
{{plugin}} = "{{module}}.source:{{class}}Camera"

[tool.hatch.build.targets.wheel]
packages = ["{{module}}"]

[tool.pytest.ini_options]
testpaths = ["tests"]

[tool.ruff]
line-length = 100
target-version = "py311"

[tool.ruff.lint]
select = ["A", "B", "C4", "D", "E", "F", "I", "PT", "RUF", "SIM", "UP", "W"]
ignore = ["D203", "D213"]

[tool.ruff.lint.per-file-ignores]
"tests/**" = ["D"]

[tool.mypy]
strict = true
plugins = ["pydantic.mypy"]
files = ["{{module}}", "tests"]
