"""Every backend that can run here keeps the contract."""

import pytest

from fairdeploy import backends
from fairdeploy.testing import FakeBackend
from fairdeploy.testing.contract import BackendContract


class TestOrt(BackendContract):
    @pytest.fixture
    def backend(self):
        return backends.load("ort")


class TestOpenVino(BackendContract):
    @pytest.fixture
    def backend(self):
        pytest.importorskip("openvino")
        return backends.load("openvino")


class TestFake(BackendContract):
    @pytest.fixture
    def backend(self):
        return FakeBackend()
