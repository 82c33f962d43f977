import platform

import jax

from mru.training import devices


def test_compiled_programs_are_kept_where_jax_was_told_or_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    known = jax.config.jax_compilation_cache_dir
    devices.keep_programs()
    assert jax.config.jax_compilation_cache_dir == known
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        devices.keep_programs()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mru" / platform.node())
    finally:
        jax.config.update("jax_compilation_cache_dir", known)
