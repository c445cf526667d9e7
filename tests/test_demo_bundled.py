"""The browser demo's page with the included networks, whose operations differ from those of the published one."""

import pytest
from test_demo import test_map_of_an_uploaded_picture_equals_that_of_test_without_flags

from msinet.bundled import BUNDLED


@pytest.fixture(scope="module", params=BUNDLED.values(), ids=BUNDLED)
def weights(request):
    return request.param
