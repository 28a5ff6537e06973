package main

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"busel/obfs/records"
	"busel/transport"
	"busel/transport/mirror"
)

const (
	// measureIdle bounds one measurement: a cover that holds an idle connection
	// for longer is as good as one that never closes.
	measureIdle = 10 * time.Minute
	// The first visit comes some minutes after the start, so that restarts make
	// none, the next ones a day later and more: a visitor like others.
	measureFirst, measureSpread = time.Minute, 9 * time.Minute
	measureEvery, measureLater  = 24 * time.Hour, 6 * time.Hour
)

// measureCover finds out how long the cover keeps an idle connection, and tells
// the listeners. What fails is tried again a day later; clients are told
// assumedIdle, or what was measured last.
func measureCover(site mirror.Cover, listeners []*mirror.Listener, log *slog.Logger) func(context.Context) error {
	network := transport.System{KeepAlive: transport.BrowserKeepAlive}
	measure := func(ctx context.Context) (time.Duration, error) {
		// The certificate is not judged: nothing is told to this cover but a
		// request for its first page, and an invite cannot be asked here.
		return mirror.MeasureIdle(ctx, network, site, mirror.Trust{})
	}
	tell := func(idle time.Duration) {
		for _, l := range listeners {
			l.SetCoverLimits(idle, site.Lifetime)
		}
	}
	return func(ctx context.Context) error { return measureDaily(ctx, measure, tell, log) }
}

// measureDaily runs until ctx ends.
func measureDaily(ctx context.Context, measure func(context.Context) (time.Duration, error), tell func(idle time.Duration), log *slog.Logger) error {
	for wait := measureFirst + rand.N(measureSpread); ; wait = measureEvery + rand.N(measureLater) {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		bounded, cancel := context.WithTimeout(ctx, measureIdle)
		idle, err := measure(bounded)
		cancel()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			log.Debug("cover's idle limit was not measured", "err", err)
			continue
		case idle == 0: // still open
			idle = measureIdle
		}
		// Limits travel in whole seconds, and 0 would be unknown.
		idle = max(idle, time.Second)
		log.Debug("cover's idle limit is measured", "limit", idle)
		tell(idle)
	}
}

// learnAgain is between two tries to learn the cover's cycle of records, and twice
// as long after each that fails.
const learnAgain = 10 * time.Second

// learnCycle finds out into what records the cover cuts large responses, and tells
// the listeners. A cover of our own is visited at once, another one as by
// measureCover; both again when they were down.
func learnCycle(site mirror.Cover, listeners []*mirror.Listener, returned <-chan struct{}, log *slog.Logger) func(context.Context) error {
	network := transport.System{KeepAlive: transport.BrowserKeepAlive}
	learn := func(ctx context.Context) (records.Cycle, error) {
		switch a, err := mirror.LearnAnswer(ctx, network, site); {
		case err != nil:
			log.Debug("the length of the cover's first answer was not learned", "err", err)
		default:
			for _, l := range listeners {
				l.SetCoverAnswer(a)
			}
		}
		return mirror.LearnCycle(ctx, network, site)
	}
	tell := func(c records.Cycle) {
		for _, l := range listeners {
			l.SetCoverCycle(c)
		}
	}
	first := time.Duration(0)
	if site.Borrowed {
		first = measureFirst + rand.N(measureSpread)
	}
	return func(ctx context.Context) error { return learnDaily(ctx, first, returned, learn, tell, log) }
}

// learnDaily runs until ctx ends.
func learnDaily(ctx context.Context, wait time.Duration, returned <-chan struct{}, learn func(context.Context) (records.Cycle, error), tell func(records.Cycle), log *slog.Logger) error {
	again := learnAgain
	for {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-returned:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		c, err := learn(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			log.Debug("cover's record lengths were not learned", "err", err)
			wait, again = again, min(2*again, measureEvery)
		default:
			log.Debug("cover's record lengths are learned", "block", c.Block, "growing", c.Growing)
			tell(c)
			wait, again = measureEvery+rand.N(measureLater), learnAgain
		}
	}
}
