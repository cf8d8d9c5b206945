"""Analytics: what a service did over time (SPEC section 2), from the workers' counters to the API's answer.

How counts travel, and why each request counts exactly once:

1. A worker counts as it always does, plain integers in `gateway.service`. Each second it compares them with those of
   the second before and adds the difference to the window of its present 10 s slot (`gateway.windows`). So a count is
   in the slot of the worker's own clock in which its request ended, however late it is told.
2. While a window is open the worker publishes all of it each second: a level, kept nowhere. Every control hears it
   (`heard`), which makes answers fresh to the second.
3. When the slot is over the window is final. The worker delivers it into the inbox in the store, under its own name
   and a number: once, however often it tries (`state/deliver.lua`). With the store gone windows wait in the worker,
   bounded: they get coarser, and no count is dropped. A worker that ends delivers all before it unregisters; whether a
   control lives then does not matter.
4. The leader folds the inbox into lines of each service (`collector`), in one fenced script with the removal from the
   inbox and the number up to which that worker is folded: a leader may be killed at any time, or replaced by another.
5. A worker that was killed delivers nothing. Once its registration has been ended by proof of death, the leader
   delivers what it last published, in its name and under the same number. Lost is what it counted in its last second.
6. Ten minutes later a service's lines become parts of its chunks (`chunks`): at 10 s, 1 min and 1 h, kept for 2 hours,
   2 days and 90 days (`resolution`), a row where there was traffic.
7. An answer is chunks + lines + inbox, read in one transaction, + what is heard beyond that.

Everything adds up, over workers, nodes and time: counts, integrals of what is in flight and held, and log-spaced
histograms (`state.buckets`) for percentiles. Only the replicas are a level: the times at which the number of ready ones
changed are kept, taken from the stored replicas themselves (`replicas`).

`/metrics` has the same counters by another way, cumulative in the workers' reports (`gateway.exposition`).
"""
