"""The live page: all plots of a process that go to `live:`, in any browser of this machine, as they grow.

The way of an edition: `sink` finds what is new since the one before (`delta`), pins both to the `board`, and `site`
streams to each reader what he lacks: everything at first, then numbered changes. `page.js` draws them.
"""
