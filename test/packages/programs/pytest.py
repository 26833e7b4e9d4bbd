# package: pytest
# load: pytest _pytest.assertion.rewrite
import pytest


class Plugin:
    def pytest_runtest_logreport(self, report):
        if report.when == 'call':
            print(report.nodeid, report.outcome)
            if report.failed:
                print(str(report.longrepr))


print(pytest.main(['-p', 'no:terminal', '-p', 'no:cacheprovider', 'test_it.py'], plugins=[Plugin()]))
#==== test_it.py
import pytest


@pytest.fixture
def value(tmp_path):
    (tmp_path / 'f').write_text('x')
    yield 3


@pytest.mark.parametrize('n', [3, 4])
def test_equal(value, n):
    assert value == n


def test_raises(capsys):
    print('out')
    with pytest.raises(ZeroDivisionError):
        1 / 0
    assert capsys.readouterr().out == 'out\n'
