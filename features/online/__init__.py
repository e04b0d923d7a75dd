"""Folding events into the online store as they arrive, with the values that the batch pipelines find.

Read `config`, `recent` (what is kept of a user's newest events, and how duplicates are known by it), `users` (one range
of the stream folded into all views of its users), then `items` and `item_buckets` (folded in turn, not range by range).
All else is the arithmetic of one view each; reading and writing the store is left to these and `backfill`.

Every feature of `features.definitions`, every co-visit and every history is equal, bit for bit, to what batch finds for
the events delivered so far, whatever their order within the lateness, their chunking and repetitions (the parity test).
What may differ, and why:

- **Late events.** A page's features hold what had been delivered; batch, the day after, knows what came later. Features
  of items know of an event from before their midnight up to 16 ranges after it came, or once the stream is idle.
- **The request's own moment.** Batch takes events strictly before it; online, those of the same millisecond and those
  that a fast clock dates ahead (`stream.future_minutes`) count, too.
- **Catalogue.** An event counts for the categories, brand and price that its item had when it was folded; batch knows
  the newest. A co-visit feature by category or brand needs `keys` that know the other item.
- **Two rows of one key.** Online the first to arrive stays, in batch the earliest.
- **Order of a history within a millisecond**, where two pages began in the same one (batch goes by the text of the
  request id, online by its hash), or where the page was shown longer than the lateness before (its places are
  forgotten).
- **The far end of a history.** When entries of joined bursts become one, the entry that had been cut off for length
  does not come back; a weaker event of an item whose entry has been cut off is a new entry.
- **What training must not see.** Batch hides what happened to a page after the end of its split; online keeps it.
- **A time before its page's.** Batch moves it to the page's, where the log says when that was served.
- **More than `recent_events` events** within the lateness, and bursts that last for days: duplicates, pages and pairs
  are exact among the newest ones.
- **Data with dates only** have pages by day in batch; online they are bursts.
- **Other features.** States written for other definitions count as missing until the next back-fill.

Values of items are those of the newest midnight, as in `item_features`; what a back-fill writes there is of the
midnight behind its last event.
"""
