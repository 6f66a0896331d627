"""One server of each kind for the tests of this folder."""

import fsspec
import pytest
import servers


@pytest.fixture(scope='module', params=['s3', pytest.param('gs', marks=pytest.mark.slow)])
def bucket(request):
  """(address, proxy) of a running object store; the environment points to it."""
  pytest.importorskip({'s3': 's3fs', 'gs': 'gcsfs'}[request.param], reason='an extra')
  patch = pytest.MonkeyPatch()
  with servers.store(request.param) as (address, proxy, environment):
    for name, value in environment.items():
      patch.setenv(name, value)
    # Clients are kept by fsspec, with the address that they were made for.
    fsspec.filesystem(request.param).clear_instance_cache()
    yield address, proxy
    patch.undo()
    fsspec.filesystem(request.param).clear_instance_cache()
