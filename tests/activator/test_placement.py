"""Which nodes can run a service, what is missing where none can, and which is chosen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from samples import service

from activator.placement import Fleet, Needs, fits, lacking, unfit
from state.models import Offer, RunSpec

EAST = Offer("process", "us-east-1", {"T4": 2, "L4": 1})
WEST = Offer("process", "eu-west-1")
IMAGES = Offer("container", "us-east-1", images=True)
PLAIN = Needs("us-east-1")


def told(needs: Needs, *offers: Offer) -> dict[str, str]:
    return {lack.field: lack.message for lack in lacking(needs, offers)}


def test_everything_that_is_missing_is_told_with_what_there_is() -> None:
    assert told(Needs("x", "T4", 4, image=True), EAST, WEST) == {
        "region": "no node is in x; regions here: eu-west-1, us-east-1",
        "image": "no node runs images; the process driver runs a repo",
        "gpu": "no node has 4 x T4; GPUs here: 1 x L4, 2 x T4",
    }
    assert told(Needs("us-east-1", "T4", 2), EAST, WEST) == {}


def test_what_no_single_node_has_together_is_missing() -> None:
    assert told(Needs("eu-west-1", "T4"), EAST, WEST) == {
        "gpu": "no node in eu-west-1 has 1 x T4; GPUs in eu-west-1: none"
    }
    assert told(Needs("us-east-1", "T4", image=True), EAST, IMAGES) == {
        "gpu": "no node has 1 x T4; GPUs here: none",
    }
    assert told(Needs("eu-west-1", image=True), IMAGES, WEST) == {
        "image": "no node in eu-west-1 runs images; the process driver runs a repo"
    }
    only_images = Offer("kubernetes", "us-east-1", images=True, repos=False)
    assert told(PLAIN, only_images) == {"repo": "no node runs a repo; the kubernetes driver runs images"}


def test_the_needs_of_a_service() -> None:
    assert Needs.of(service(gpu="T4", gpu_count=2)) == Needs("us-east-1", "T4", 2)
    assert Needs.of(service(run=RunSpec(image="acme/app"))) == Needs("us-east-1", image=True)


@given(
    st.builds(Needs, st.sampled_from("ab"), st.sampled_from(["none", "T4"]), st.sampled_from([1, 2]), st.booleans()),
    st.lists(
        st.builds(
            Offer,
            st.just("d"),
            st.sampled_from("ab"),
            st.dictionaries(st.just("T4"), st.integers(0, 2)),
            st.booleans(),
            st.booleans(),
        ),
        max_size=4,
    ),
)
def test_a_reason_is_given_exactly_if_no_node_fits(needs: Needs, offers: list[Offer]) -> None:
    assert (unfit(needs, offers) is None) == any(fits(needs, offer) for offer in offers)


def fleet(*up: str, lost: tuple[str, ...] = (), complete: bool = True, **offers: Offer) -> Fleet:
    return Fleet(offers, frozenset(up), dict.fromkeys(lost, 31.0), complete)


def test_the_one_with_the_fewest_replicas_of_those_that_are_heard_and_fit() -> None:
    three = fleet("a", "b", "w", a=EAST, b=EAST, w=WEST, silent=EAST)
    assert three.able(PLAIN) == {"a", "b"}
    assert three.choose(three.able(PLAIN), {"a": 2, "b": 1}) == "b"
    assert three.choose(three.able(PLAIN), {}) == "a"
    assert three.choose(three.able(Needs("mars")), {}) is None


def test_nothing_is_chosen_before_all_had_time_to_be_heard() -> None:
    early = fleet("a", complete=False, a=EAST, b=EAST)
    assert early.able(PLAIN) == {"a"}
    assert early.choose(early.able(PLAIN), {}) is None


def test_only_a_lost_node_counts_as_none() -> None:
    assert fleet(a=EAST).unfit(PLAIN) is None
    assert fleet("w", lost=("a",), a=EAST, w=WEST).unfit(PLAIN) == "no node is in us-east-1; regions here: eu-west-1"
    assert fleet().unfit(PLAIN) is None, "nothing is known"


def test_what_a_node_that_drains_runs_goes_to_another_if_one_can_take_it() -> None:
    offers = {"a": EAST, "b": EAST, "w": WEST}
    two = Fleet(offers, frozenset("bw"), {}, draining=frozenset("a"))
    assert (two.able(PLAIN), two.leaving(PLAIN)) == ({"b"}, {"a"})
    last = Fleet(offers, frozenset("w"), {}, draining=frozenset("a"))
    assert (last.able(PLAIN), last.leaving(PLAIN)) == ({"a"}, frozenset()), "it still wakes what it is asked for"
    assert last.unfit(PLAIN) is None, "who stops may come back: nothing has failed"


def test_a_node_that_evicts_is_given_nothing_and_keeps_nothing() -> None:
    last = Fleet({"a": EAST, "w": WEST}, frozenset("w"), {}, evicting=frozenset("a"))
    assert (last.able(PLAIN), last.leaving(PLAIN)) == (frozenset(), {"a"})
    both = Fleet({"a": EAST, "b": EAST}, frozenset(), {}, draining=frozenset("b"), evicting=frozenset("a"))
    assert (both.able(PLAIN), both.leaving(PLAIN)) == ({"b"}, {"a"})
