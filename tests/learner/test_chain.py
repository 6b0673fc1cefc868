"""Reading a subnet through the real SDK from a node that answers with real bytes."""

import http.server
import subprocess
import sys
import threading

import pytest

from gating.metagraph import MetagraphView, plan_resync
from learner import chain
from learner.chain import BittensorSource, MetagraphSource, build_source, check_source
from learner.config import BittensorChain
from learner.errors import (
    BadMetagraphError,
    ChainError,
    ChainUnavailableError,
    SubnetNotFoundError,
    UnknownNetworkError,
)


@pytest.fixture
def node(start_node):
    """A node with a subnet of four uids, which the test may change."""
    node = start_node(netuid=23, n=4)
    yield node
    node.stop()


@pytest.fixture
def connect():
    """Makes sources, and closes them."""
    made = []

    def connect_to(network, **settings):
        settings = {"netuid": 23, "call_timeout_s": 5.0, **settings}
        made.append(build_source(BittensorChain(source="bittensor", network=network, **settings)))
        return made[-1]

    yield connect_to
    for source in made:
        source.close()


def test_a_view_has_what_the_chain_says_of_every_uid(node, connect):
    node.subnet.stake(2, 5000.0)
    node.subnet.serve(3, False)
    view = connect(node.url).fetch_view()
    assert view.hotkeys == tuple(node.subnet.hotkeys)
    assert (view.netuid, view.block, view.registered_at) == (23, 102, (1, 2, 3, 4))
    assert view.serving == (True, True, True, False)
    assert view.validator_permit == (False, False, True, False)
    assert view.stake == (0.0, 0.0, 5000.0, 0.0)


def test_only_who_serves_and_is_no_large_validator_and_is_not_excluded_is_available(node, connect):
    node.subnet.serve(0, False)
    node.subnet.stake(1, 4096.5)
    node.subnet.stake(2, 4096.0)
    assert connect(node.url).fetch_view().available == (False, False, True, True)
    assert connect(node.url, exclude=[3]).fetch_view().available == (False, False, True, False)
    assert connect(node.url, vpermit_tao_limit=5000).fetch_view().available == (False, True, True, True)


def test_the_finalized_block_is_read_unless_the_newest_is_asked_for(node, connect):
    node.subnet.unfinalized = 3
    node.subnet.register("newcomer", uid=0)
    final, newest = connect(node.url), connect(node.url, finalized=False)
    assert (final.fetch_block(), newest.fetch_block()) == (98, 101)
    assert final.fetch_view().registered_at[0] == 1
    assert newest.fetch_view().registered_at[0] == 101
    node.subnet.advance(3)
    assert final.fetch_view().registered_at[0] == 101


def change(node, connect, operation):
    """The plan that an operation on the chain leads to."""
    source = connect(node.url)
    before = source.fetch_view()
    operation(node.subnet)
    after = source.fetch_view()
    assert after.block > before.block
    return plan_resync(before, after)


def test_a_registration_over_a_uid_resets_that_uid_alone(node, connect):
    plan = change(node, connect, lambda subnet: subnet.register("newcomer", uid=2))
    assert (plan.source, plan.reset) == ((0, 1, -1, 3), (2,))


def test_the_same_hotkey_registered_anew_is_a_new_owner(node, connect):
    plan = change(node, connect, lambda subnet: subnet.register("miner-2", uid=2))
    assert (plan.source, plan.reset, plan.swapped) == ((0, 1, -1, 3), (2,), ())


def test_an_owners_swap_of_its_hotkey_keeps_its_row(node, connect):
    plan = change(node, connect, lambda subnet: subnet.swap_hotkey(1, "rotated"))
    assert (plan.source, plan.swapped, plan.reset) == ((0, 1, 2, 3), (1,), ())


def test_a_compacted_subnet_moves_rows_with_their_hotkeys(node, connect):
    plan = change(node, connect, lambda subnet: subnet.compact(0, 2))
    assert (plan.source, plan.removed) == ((1, 3), (2, 3))


def test_a_grown_subnet_adds_rows(node, connect):
    plan = change(node, connect, lambda subnet: subnet.register("newcomer"))
    assert (plan.source, plan.added) == ((0, 1, 2, 3, -1), (4,))


def test_serving_changes_availability_and_no_row(node, connect):
    source = connect(node.url)
    before = source.fetch_view()
    node.subnet.serve(1, False)
    after = source.fetch_view()
    assert after.available == (True, False, True, True)
    assert not plan_resync(before, after).changes_rows
    node.subnet.serve(1)
    assert all(source.fetch_view().available)


def test_one_connection_serves_many_reads_and_a_look_costs_no_metagraph(node, connect):
    source = connect(node.url)
    source.fetch_view()
    node.requests.clear()
    assert source.fetch_block() == 100
    assert "SubnetInfoRuntimeApi_get_metagraph" not in node.requests
    source.fetch_view()
    assert node.connections == 1


def test_commitments_are_not_asked_for(node, connect):
    source = connect(node.url)
    source.fetch_block()
    node.requests.clear()
    source.fetch_view()
    assert node.requests.count("SubnetInfoRuntimeApi_get_metagraph") == 1
    assert "state_getKeysPaged" not in node.requests


def test_a_silent_node_is_given_up_after_the_timeout_and_left_for_a_new_connection(node, connect):
    source = connect(node.url, call_timeout_s=0.2)
    source.fetch_view()
    node.silent = True
    with pytest.raises(ChainUnavailableError, match=rf"{node.url}: the finalized block failed: no answer within 0.2 s"):
        source.fetch_view()
    with pytest.raises(ChainUnavailableError, match=r"connecting failed: no answer within 0.2 s"):
        source.fetch_view()
    node.silent = False
    assert source.fetch_view().block == 100
    assert node.connections == 3


def test_connections_that_never_came_to_be_are_closed(node, connect):
    source = connect(node.url, call_timeout_s=0.05)
    node.silent = True
    for _ in range(5):
        with pytest.raises(ChainUnavailableError):
            source.fetch_view()
    node.wait_until_open(0)
    assert node.connections == 5


def test_a_dropped_connection_is_made_anew(node, connect):
    source = connect(node.url)
    source.fetch_view()
    node.drop()
    node.subnet.advance()
    assert source.fetch_view().block == 101
    assert node.connections == 2


def test_a_node_that_is_gone_is_named_and_found_again_after_its_restart(node, connect):
    source = connect(node.url)
    source.fetch_view()
    node.stop()
    with pytest.raises(ChainUnavailableError, match=rf"{node.url}.*could not connect.*fallback_endpoints"):
        source.fetch_view()
    node.start()
    assert source.fetch_view().block == 100


def test_what_the_node_says_is_wrong_is_told(node, connect):
    source = connect(node.url)
    node.error = "the database is on fire"
    with pytest.raises(ChainUnavailableError, match=r"connecting failed: .*the database is on fire"):
        source.fetch_view()
    node.error = None
    source.fetch_view()
    node.error = "out of memory"
    with pytest.raises(ChainUnavailableError, match=r"the finalized block failed: .*out of memory"):
        source.fetch_view()


def test_a_missing_subnet_is_named_with_its_network(node, connect):
    with pytest.raises(SubnetNotFoundError, match=rf"network {node.url} has no subnet 24 at block 100"):
        connect(node.url, netuid=24).fetch_view()
    node.subnet.exists = False
    with pytest.raises(SubnetNotFoundError, match="no subnet 23"):
        connect(node.url).fetch_view()


def test_a_hotkey_that_holds_two_uids_is_refused(node, connect):
    node.subnet.swap_hotkey(1, "miner-3")
    with pytest.raises(BadMetagraphError, match=r"subnet 23 of network ws://.*holds uids 1 and 3"):
        connect(node.url).fetch_view()


def test_a_metagraph_of_another_form_is_refused(node, connect, monkeypatch):
    """Nothing that a node sends ends the thread that reads it."""

    def read(_metagraph):
        raise TypeError("'NoneType' object is not iterable")

    monkeypatch.setattr(MetagraphView, "from_metagraph", read)
    with pytest.raises(BadMetagraphError, match="TypeError: 'NoneType' object is not iterable"):
        connect(node.url).fetch_view()


def test_a_subnet_without_uids_is_refused(node, connect):
    node.subnet.compact(0, 1, 2, 3)
    with pytest.raises(BadMetagraphError, match="has no uids yet"):
        connect(node.url).fetch_view()


def test_another_node_is_turned_to_when_the_first_is_gone(node, start_node, connect):
    other = start_node(netuid=23, n=4, block=90)
    node.stop()
    assert connect(node.url, fallback_endpoints=[other.url]).fetch_view().block == 90


def test_disconnecting_turns_back_to_the_first_node(node, start_node, connect):
    lagging = start_node(netuid=23, n=4, block=90)
    node.stop()
    source = connect(node.url, fallback_endpoints=[lagging.url])
    assert source.fetch_view().block == 90
    node.start()
    source.disconnect()
    assert source.fetch_view().block == 100


def test_an_endpoint_that_is_no_node_is_told_as_it_is(connect, bittensor_home):
    class NotFound(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_error(404)

        def log_message(self, *_args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), NotFound) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with pytest.raises(ChainUnavailableError, match=r"connecting failed.*HTTP 404"):
                connect(f"ws://127.0.0.1:{server.server_address[1]}").fetch_view()
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("network", ["fineny", "https://node.example", "ws://", "wss://:443", "ws://h:port", "devnet"])
def test_an_unknown_network_is_refused_by_its_name(network):
    config = BittensorChain(source="bittensor", netuid=1, network=network)
    with pytest.raises(UnknownNetworkError) as refusal:
        check_source(config)
    assert repr(network) in str(refusal.value)
    assert "finney, test, local" in str(refusal.value)
    with pytest.raises(UnknownNetworkError):
        build_source(config)


def test_a_fallback_that_is_no_endpoint_is_refused():
    config = BittensorChain(source="bittensor", netuid=1, fallback_endpoints=["wss://node.example", "finney"])
    with pytest.raises(UnknownNetworkError, match="fallback_endpoints has 'finney'"):
        check_source(config)


def test_checking_settings_connects_to_nothing(node):
    check_source(BittensorChain(source="bittensor", netuid=23, network=node.url))
    assert node.connections == 0


def test_settings_for_a_subnet_without_bittensor_name_what_to_install(monkeypatch):
    monkeypatch.setattr(chain.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ChainError, match=r"pip install 'tidegate\[chain\]'"):
        check_source(BittensorChain(source="bittensor", netuid=1))


def test_names_of_networks_are_those_of_the_sdk(bittensor_home):
    from bittensor.settings import NETWORKS

    assert set(chain.NETWORKS) <= set(NETWORKS)


def test_what_may_be_a_key_in_an_endpoint_is_shown_nowhere(node, connect):
    source = connect(node.url.replace("127.0.0.1", "user:secret@127.0.0.1") + "/secret?key=secret")
    assert isinstance(source, MetagraphSource)
    source.fetch_view()
    assert source.describe() == {"source": "bittensor", "network": node.url, "endpoint": node.url}
    node.stop()
    with pytest.raises(ChainUnavailableError) as unavailable:
        source.fetch_view()
    assert "secret" not in str(unavailable.value)


def test_a_named_network_is_described_before_it_is_read():
    source = BittensorSource(BittensorChain(source="bittensor", netuid=1, network="test"))
    assert source.describe() == {"source": "bittensor", "network": "test", "endpoint": ""}
    source.disconnect()
    source.close()


def test_bittensor_is_imported_only_when_a_subnet_is_read():
    code = (
        "import sys; from learner.chain import build_source; from learner.config import BittensorChain, RosterChain;"
        "build_source(RosterChain()).fetch_view(); build_source(BittensorChain(source='bittensor', netuid=1));"
        "sys.exit('bittensor' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
