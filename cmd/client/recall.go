package main

import (
	"context"
	"fmt"
	"log/slog"

	"busel/internal/memory"
	"busel/internal/network"
	"busel/internal/rotate"
	"busel/internal/state"
	"busel/transport"
)

// surroundings are the network that the client is on, and what is remembered of it.
type surroundings struct {
	watcher *network.Watcher
	memory  *memory.Memory
}

func newSurroundings(dir *state.Dir, log *slog.Logger) (*surroundings, error) {
	salt, err := dir.Salt()
	if err != nil {
		return nil, err
	}
	return &surroundings{
		watcher: network.New(network.Config{Salt: salt, Logger: log}),
		memory:  memory.Open(memory.Config{Dir: dir, Salt: salt, Logger: log}),
	}, nil
}

// place names the network that the client is on.
func (s *surroundings) place() string { return string(s.watcher.Now().ID) }

// watch calls changed for every change of the network that carriers may not
// survive, until ctx ends, and returns its cause.
func (s *surroundings) watch(ctx context.Context, changed func()) error {
	events, stop := s.watcher.Changes()
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case e := <-events:
			if e.State.Up { // without a link there is nothing to be done
				changed()
			}
		}
	}
}

// of is the memory of the routes to one relay, on whatever network the client is.
func (s *surroundings) of(relay [32]byte) rotate.Memory { return recall{s, relay} }

type recall struct {
	*surroundings
	relay [32]byte
}

// key names a route. The label of its relay is not in it: it may be another's
// tomorrow.
func (m recall) key(r transport.Route) string {
	return fmt.Sprintf("%x %s %s %s %t", m.relay, r.Transport, r.Address, r.Options, r.Detour)
}

// Recall implements [rotate.Memory].
func (m recall) Recall(r transport.Route) rotate.Remembered {
	e := m.memory.Get(m.watcher.Now().ID, m.key(r))
	return rotate.Remembered{
		Successes: e.Successes, Failures: e.Failures, Failure: transport.Failure(e.Failure), Took: e.Took,
		Rest: e.RestUntil, Rests: e.Rests, Goodput: e.Goodput, Budget: e.CarrierBytes, Seen: e.CarrierSeen,
	}
}

// Note implements [rotate.Memory].
func (m recall) Note(r transport.Route, n rotate.Remembered) {
	m.memory.Update(m.watcher.Now().ID, m.key(r), func(e *memory.Entry) {
		e.Successes, e.Failures, e.Failure, e.Took = n.Successes, n.Failures, string(n.Failure), n.Took
		e.RestUntil, e.Rests, e.Goodput, e.CarrierBytes, e.CarrierSeen = n.Rest, n.Rests, n.Goodput, n.Budget, n.Seen
	})
}
