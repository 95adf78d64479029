"""What the author of a plugin needs to test it, without a camera and without a daemon. See docs/testing.md.

Imports nothing by itself: pytest loads `fixtures` wherever healthd is installed, and must stay as quick as before.

- `fixtures`: `healthd_frames`, `healthd_clock`, `healthd_fake_camera`, `healthd_fake_family`, `healthd_manager` and
  `healthd_runner`, which pytest finds by itself.
- `suites`: `SourceConformance` and `FamilyConformance`, test classes to inherit from.
- `fakes`, `house`: what the fixtures are made of, for tests that do not use pytest.
- `rules`, `source_rules`, `family_rules`: the conformance suite in plain Python; `healthd plugins check` runs it too.
"""
