from __future__ import annotations

from contextlib import closing

from proxy.store.database import Database
from proxy.store.demo import DEMO_TENANT, begin_demo, end_demo
from proxy.store.tenants import keys


def test_the_first_start_makes_a_demo_and_one_with_a_real_upstream_ends_it(database: Database) -> None:
    assert begin_demo(database, 1).startswith("tg_")
    assert begin_demo(database, 2) == "", "there is a tenant"
    end_demo(database, 3)
    end_demo(database, 4)
    with closing(database.connect()) as connection:
        assert [key.revoked_ms for key in keys(connection, DEMO_TENANT)] == [3]
